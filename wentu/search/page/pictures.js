// Pictures that are brought along: chosen, dropped or pasted, and made small before they are sent.

const LARGEST_SIDE = 1600;
const SMALL_ENOUGH = 1_000_000;
const brought = new Map(); // number -> {file, url}; a visit's own, gone when the page is left

/** Remember a picture; its number stands in the address. It is drawn at random: addresses of before
 * a reload stay in the history, and must not mean another picture. */
export async function bring(file) {
  const small = await smaller(file);
  const number = String(crypto.getRandomValues(new BigUint64Array(1))[0] >> 4n); // at most 19 digits
  brought.set(number, { file: small, url: URL.createObjectURL(small) });
  return number;
}

/** {file, url} of a picture; undefined where the page was left since. */
export const taken = (number) => brought.get(number);

/** A large photo, smaller: the model looks at few pixels, and a telephone sends slowly. That also
 * leaves away where it was taken. What the browser cannot decode goes as it is. */
async function smaller(file) {
  if (file.size <= SMALL_ENOUGH) return file;
  try {
    const picture = await createImageBitmap(file);
    const scale = Math.min(1, LARGEST_SIDE / Math.max(picture.width, picture.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(picture.width * scale));
    canvas.height = Math.max(1, Math.round(picture.height * scale));
    const paper = canvas.getContext("2d");
    paper.fillStyle = "#fff";
    paper.fillRect(0, 0, canvas.width, canvas.height);
    paper.drawImage(picture, 0, 0, canvas.width, canvas.height);
    picture.close();
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
    return blob && blob.size < file.size ? blob : file;
  } catch {
    return file;
  }
}

/** The first picture among what was dropped or pasted; null where there is none. */
export function pictureIn(transfer) {
  const files = [...(transfer?.files || [])];
  return files.find((file) => file.type.startsWith("image/") || /\.(heic|heif|avif)$/i.test(file.name))
    || null;
}

/** Let pictures be dropped anywhere; `over(true)` while one hovers, `act(file or null)` at last. */
export function listenForDrops(over, act) {
  let inside = 0;
  const files = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
  addEventListener("dragenter", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    inside += 1;
    over(true);
  });
  addEventListener("dragover", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
  });
  addEventListener("dragleave", (event) => {
    if (!files(event)) return;
    inside = Math.max(0, inside - 1);
    if (!inside) over(false);
  });
  addEventListener("drop", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    inside = 0;
    over(false);
    act(pictureIn(event.dataTransfer));
  });
}

/** Is it text before all? Spreadsheets and word processors lay a picture of it beside it; a file
 * manager lays the file's name beside a picture. */
function isText(transfer, file) {
  const text = transfer.getData("text/plain").trim();
  return Boolean(text) && !text.includes(file.name);
}

/** Let a picture be pasted anywhere; text is pasted as ever. */
export function listenForPastes(act) {
  addEventListener("paste", (event) => {
    const file = pictureIn(event.clipboardData);
    if (!file) return;
    if (event.target.closest?.("input, textarea") && isText(event.clipboardData, file)) return;
    event.preventDefault();
    act(file);
  });
}
