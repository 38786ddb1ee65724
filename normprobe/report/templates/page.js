(() => {
  const root = document.documentElement, find = (s) => document.querySelector(s);
  const theme = find(".theme"), table = find("#layers table"), dark = matchMedia("(prefers-color-scheme: dark)");
  document.querySelectorAll("[hidden]").forEach((e) => { e.hidden = false; });
  theme.onclick = () => { root.dataset.theme = (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark" ? "light" : "dark"; };
  const show = () => {
    const place = document.getElementById(location.hash.slice(1));
    if (place && place.tagName === "DETAILS") place.open = true;
    if (place && place.tagName === "TR") place.hidden = false;
    if (place) place.scrollIntoView();
  };
  addEventListener("hashchange", show);
  document.addEventListener("click", (e) => { const a = e.target.closest("a[href^='#']"); if (a && a.hash === location.hash) show(); });
  show();
  const body = table.tBodies[0], rows = [...body.rows], box = find("#search"), kind = find("#kind"), count = find("#count");
  const filter = () => {
    rows.forEach((r) => { r.hidden = !(r.cells[1].textContent.toLowerCase().includes(box.value.toLowerCase()) && (!kind.value || r.cells[2].textContent === kind.value)); });
    count.textContent = rows.filter((r) => !r.hidden).length + " of " + rows.length + " layers";
  };
  box.oninput = kind.oninput = filter;
  const key = (row, i) => { const c = row.cells[i]; return "v" in c.dataset ? (c.dataset.v === "" ? NaN : +c.dataset.v) : c.textContent; };
  [...table.tHead.rows[0].cells].forEach((th, i) => {
    if (!th.hasAttribute("aria-sort")) return;
    const button = document.createElement("button");
    button.type = "button"; button.append(...th.childNodes); th.append(button);
    button.onclick = () => {
      const up = th.getAttribute("aria-sort") === "descending" || (th.getAttribute("aria-sort") === "none" && i < 3), s = up ? 1 : -1;
      table.querySelectorAll("th[aria-sort]").forEach((o) => o.setAttribute("aria-sort", "none"));
      th.setAttribute("aria-sort", up ? "ascending" : "descending");
      rows.sort((a, b) => { const x = key(a, i), y = key(b, i); return Number.isNaN(x) || Number.isNaN(y) ? Number.isNaN(x) - Number.isNaN(y) : s * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y); });
      body.append(...rows);
    };
  });
})();
