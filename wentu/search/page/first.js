// Runs before the page is painted: a theme that was chosen by hand does not flash in late.
{
  let theme = "auto";
  try {
    theme = localStorage.getItem("wentu.theme") || "auto";
  } catch {
    // storage may be forbidden; then each visit begins with the system's theme
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
}
