// Search, and opening of what a link leads to. Without scripts everything is there, only closed and unsorted.
"use strict";
(() => {
  const box = document.getElementById("search");
  const shown = document.getElementById("shown");
  const table = document.getElementById("layers");

  const filter = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of table.tBodies[0].rows) {
      const text = (row.cells[0].textContent + " " + row.cells[1].textContent).toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      count += row.hidden ? 0 : 1;
    }
    shown.textContent = count + " layers";
  };
  box.disabled = false;
  box.addEventListener("input", filter);

  const openTarget = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") {
      target.open = true;
      target.scrollIntoView({ block: "start" });
      target.querySelector("summary").focus({ preventScroll: true });
    }
  };
  window.addEventListener("hashchange", openTarget);
  document.addEventListener("click", (event) => {
    // The same link a second time changes no hash.
    const link = event.target.closest("a[href^='#layer-']");
    if (link && link.getAttribute("href") === location.hash) openTarget();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== box) {
      event.preventDefault();
      box.focus();
    }
  });
  openTarget();
})();
