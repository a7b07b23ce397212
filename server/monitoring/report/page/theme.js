// In the head, so that the page is never drawn in the other theme first.
try {
  const chosen = localStorage.getItem("hotfeast-theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch {
  // A file may not be allowed any storage: the system's theme then.
}
