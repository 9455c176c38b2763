"use strict";
// Tooltips at once, also by touch: without this the browser shows the same titles by itself.
(() => {
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  tip.setAttribute("aria-hidden", "true");
  document.body.append(tip);
  for (const mark of document.querySelectorAll(".mark")) {
    const title = mark.querySelector("title");
    mark.dataset.tip = title.textContent;
    mark.setAttribute("aria-label", title.textContent);
    title.remove();
    const show = () => {
      const box = mark.getBoundingClientRect();
      tip.textContent = mark.dataset.tip;
      tip.hidden = false;
      const most = document.documentElement.clientWidth - tip.offsetWidth - 8;
      tip.style.left = `${Math.max(8, Math.min(most, box.left + box.width / 2 - tip.offsetWidth / 2)) + scrollX}px`;
      const above = box.top - tip.offsetHeight - 8;
      tip.style.top = `${(above > 0 ? above : box.bottom + 8) + scrollY}px`;
    };
    mark.addEventListener("pointerenter", show);
    mark.addEventListener("pointerleave", () => { tip.hidden = true; });
  }
})();
