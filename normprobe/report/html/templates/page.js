const all = (s) => [...document.querySelectorAll(s)], find = (s) => document.querySelector(s), root = document.documentElement;
all("[hidden]").forEach((e) => { e.hidden = false; });
const system = () => (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
find(".theme").onclick = () => { root.dataset.theme = (root.dataset.theme || system()) === "dark" ? "light" : "dark"; };

const show = (hash) => {
  const place = document.getElementById(hash.slice(1));
  if (place) { place.open = true; place.hidden = false; place.scrollIntoView(); }
};
addEventListener("hashchange", () => show(location.hash));
addEventListener("click", (e) => { const a = e.target.closest("a[href^='#']"); if (a) show(a.getAttribute("href")); });
show(location.hash);

const rows = all("#layers tbody tr"), box = find("#search"), kind = find("#kind"), heads = all("#layers th[aria-sort]");
const fits = ([, name, of]) => name.textContent.toLowerCase().includes(box.value.toLowerCase()) && (!kind.value || of.textContent === kind.value);
box.oninput = kind.oninput = () => {
  rows.forEach((r) => { r.hidden = !fits(r.cells); });
  find("#count").textContent = `${rows.filter((r) => !r.hidden).length} of ${rows.length} layers`;
};
heads.forEach((th) => {
  const button = document.createElement("button"), i = th.cellIndex, words = i === 1 || i === 2;
  button.append(...th.childNodes); th.append(button);
  const value = (r) => { const c = r.cells[i]; return words ? c.textContent : Number(c.dataset.v || c.textContent); };
  const order = (a, b) => (words ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  button.onclick = () => {
    const up = th.ariaSort === "descending" || (th.ariaSort === "none" && i < 3);
    heads.forEach((o) => { o.ariaSort = o !== th ? "none" : up ? "ascending" : "descending"; });
    rows.sort((r, s) => { const [a, b] = [value(r), value(s)]; return Number.isNaN(a) - Number.isNaN(b) || (up ? 1 : -1) * order(a, b) || 0; });
    find("#layers tbody").append(...rows);
  };
});
