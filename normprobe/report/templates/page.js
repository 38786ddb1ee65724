(() => {
  const all = (s) => [...document.querySelectorAll(s)], find = (s) => document.querySelector(s), root = document.documentElement;
  all("[hidden]").forEach((e) => { e.hidden = false; });
  find(".theme").onclick = () => {
    const theme = root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    root.dataset.theme = theme === "dark" ? "light" : "dark";
  };
  const show = (hash) => {
    const place = document.getElementById(hash.slice(1));
    if (place) { place.open = true; place.hidden = false; place.scrollIntoView(); }
  };
  addEventListener("hashchange", () => show(location.hash));
  addEventListener("click", (e) => { const a = e.target.closest("a[href^='#']"); if (a) show(a.getAttribute("href")); });
  show(location.hash);

  const body = find("#layers tbody"), rows = [...body.rows], box = find("#search"), kind = find("#kind"), heads = all("#layers th[aria-sort]");
  box.oninput = kind.oninput = () => {
    const fits = ([, name, of]) => name.textContent.toLowerCase().includes(box.value.toLowerCase()) && (!kind.value || of.textContent === kind.value);
    rows.forEach((r) => { r.hidden = !fits(r.cells); });
    find("#count").textContent = `${rows.filter((r) => !r.hidden).length} of ${rows.length} layers`;
  };
  heads.forEach((th) => {
    const button = document.createElement("button"), i = th.cellIndex, words = i === 1 || i === 2;
    button.append(...th.childNodes);
    th.append(button);
    const value = (r) => { const c = r.cells[i]; return words ? c.textContent : Number(c.dataset.v || c.textContent); };
    button.onclick = () => {
      const up = th.ariaSort === "descending" || (th.ariaSort === "none" && i < 3), sign = up ? 1 : -1;
      heads.forEach((o) => { o.ariaSort = o !== th ? "none" : up ? "ascending" : "descending"; });
      const order = (a, b) => (words ? sign * a.localeCompare(b, "en", { numeric: true }) : isNaN(a) - isNaN(b) || sign * (a - b) || 0);
      body.append(...rows.sort((r, s) => order(value(r), value(s))));
    };
  });
})();
