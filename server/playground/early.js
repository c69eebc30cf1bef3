// Runs before the first paint, so that the page does not flash in another theme or language.
(() => {
  const root = document.documentElement;
  /** @type {any} */
  let kept = {};
  try {
    kept = JSON.parse(localStorage.getItem("persona.playground") || "{}");
  } catch {
    // kept by nobody: the browser's own wishes hold
  }
  root.dataset.theme = ["light", "dark"].includes(kept.theme) ? kept.theme : "system";
  const preferred = navigator.language.toLowerCase().startsWith("ko") ? "ko" : "en";
  root.lang = ["ko", "en"].includes(kept.lang) ? kept.lang : preferred;
})();
