// Before the first paint, so that a page set to dark does not flash white. No module: those run too late.
(() => {
  try {
    const theme = JSON.parse(localStorage.getItem("hidden-decoding-settings"))?.theme;
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  } catch {
    // Nothing kept, or nothing readable: the system's theme holds.
  }
})();
