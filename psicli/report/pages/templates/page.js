"use strict";
(() => {
  const root = document.documentElement;
  // A page that is opened as a file may have no storage.
  const recall = () => { try { return localStorage.getItem("psicli-theme"); } catch { return null; } };
  const keep = (theme) => { try { localStorage.setItem("psicli-theme", theme); } catch { /* not kept */ } };
  const show = (theme) => {
    if (theme !== "dark" && theme !== "light") return;
    root.dataset.theme = theme;
    root.style.colorScheme = theme;
  };
  const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  show(recall());

  const theme = (button) => {
    const name = () => { button.textContent = isDark() ? "Light" : "Dark"; };
    button.addEventListener("click", () => { show(isDark() ? "light" : "dark"); keep(root.dataset.theme); name(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
    name();
    button.hidden = false;
  };

  // A cell without a value is the last one in both directions.
  const key = (row, at, number) => {
    const cell = row.cells[at];
    const text = cell?.dataset.value ?? cell?.textContent.trim() ?? "";
    if (!number) return text;
    const value = parseFloat(text.replaceAll(",", ""));
    return Number.isNaN(value) ? null : value;
  };
  const order = (one, other, number, up) => {
    if (one === null || other === null) return (one === null) - (other === null);
    const found = number ? one - other : one.localeCompare(other, undefined, { numeric: true });
    return up ? found : -found;
  };
  const sort = (button) => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const number = head.classList.contains("number");
    const before = head.getAttribute("aria-sort");
    const up = before ? before === "descending" : !number;
    for (const each of head.parentNode.cells) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...body.rows].map((row) => [key(row, head.cellIndex, number), row]);
    rows.sort((one, other) => order(one[0], other[0], number, up));
    body.append(...rows.map((each) => each[1]));
  };

  // Paper shows everything.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const each of closed) each.open = true;
  });
  addEventListener("afterprint", () => { for (const each of closed) each.open = false; });

  // A link to a part that is closed opens it.
  const reveal = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let each = target; each; each = each.parentElement) if (each.tagName === "DETAILS") each.open = true;
    if (target) target.scrollIntoView();
  };

  document.addEventListener("DOMContentLoaded", () => {
    theme(document.getElementById("theme"));
    // Also in a part of the page that comes later.
    document.addEventListener("click", (event) => {
      const button = event.target.closest("table.sortable thead button");
      if (button) sort(button);
      // The address does not change if the reader follows the same link again.
      if (event.target.closest('a[href^="#"]')?.hash === location.hash) reveal();
    });
    addEventListener("hashchange", reveal);
    reveal();
  });
})();
