// Speech instead of typing, only where the browser understands it by itself: nothing spoken leaves
// the machine. Elsewhere the button stays hidden.

import { by } from "./dom.js";
import { tag } from "./words.js";

/** Show the button where speech in the page's language is understood here. */
export async function offerSpeech(act) {
  const button = by("speak");
  button.hidden = !(await local());
  button.onclick = () => listen(button, act);
}

async function local() {
  const Recognition = globalThis.SpeechRecognition;
  if (!Recognition?.available || !("processLocally" in Recognition.prototype)) return false;
  try {
    const known = await Recognition.available({ langs: [spoken()], processLocally: true });
    return known === "available";
  } catch {
    return false;
  }
}

const spoken = () => (tag() === "en" ? "en-US" : tag());

function listen(button, act) {
  const recognition = new globalThis.SpeechRecognition();
  recognition.lang = spoken();
  recognition.processLocally = true;
  recognition.interimResults = false;
  recognition.onresult = (event) => act(event.results[0][0].transcript);
  recognition.onend = () => button.classList.remove("on");
  button.classList.add("on");
  recognition.start();
}
