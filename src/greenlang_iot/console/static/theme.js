// Before the first paint: the theme that was chosen, else the system's. Not a module, so that it blocks.
"use strict";
(() => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const chosen = localStorage.getItem("theme");
    document.documentElement.dataset.theme = chosen ?? (system.matches ? "dark" : "light");
    dispatchEvent(new Event("theme"));
  };
  apply();
  system.addEventListener("change", apply);
  window.toggleTheme = () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    // what the system says anyway is not remembered: it may change with the time of day
    if ((next === "dark") === system.matches) localStorage.removeItem("theme");
    else localStorage.setItem("theme", next);
    apply();
  };
})();
