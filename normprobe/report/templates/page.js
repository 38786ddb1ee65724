(() => {
  const all = (s) => [...document.querySelectorAll(s)], find = (s) => document.querySelector(s);
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  all("[hidden]").forEach((e) => { e.hidden = false; });
  find(".theme").onclick = () => {
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
    root.dataset.theme = isDark ? "light" : "dark";
  };
  const show = (hash) => {
    const place = document.getElementById(hash.slice(1));
    if (!place) return;
    place.open = place.tagName === "DETAILS";
    place.hidden = false;
    place.scrollIntoView();
  };
  addEventListener("hashchange", () => show(location.hash));
  addEventListener("click", (e) => { const a = e.target.closest("a[href^='#']"); if (a) show(a.getAttribute("href")); });
  show(location.hash);

  const body = find("#layers tbody"), rows = [...body.rows], box = find("#search"), kind = find("#kind");
  box.oninput = kind.oninput = () => {
    const fits = (r) => r.cells[1].textContent.toLowerCase().includes(box.value.toLowerCase()) && (!kind.value || r.cells[2].textContent === kind.value);
    rows.forEach((r) => { r.hidden = !fits(r); });
    find("#count").textContent = `${rows.filter((r) => !r.hidden).length} of ${rows.length} layers`;
  };
  const value = (r, i) => { const c = r.cells[i]; return i === 1 || i === 2 ? c.textContent : +(c.dataset.v || c.textContent); };
  const compare = (x, y) => (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y);
  const heads = all("#layers th");
  heads.forEach((th, i) => {
    if (!th.hasAttribute("aria-sort")) return;
    const button = document.createElement("button"), first = i < 3 ? "ascending" : "descending";
    button.append(...th.childNodes);
    th.append(button);
    button.onclick = () => {
      const now = th.getAttribute("aria-sort"), next = now === "none" ? first : now === "ascending" ? "descending" : "ascending";
      heads.forEach((o) => { if (o.hasAttribute("aria-sort")) o.setAttribute("aria-sort", o === th ? next : "none"); });
      const last = (r) => Number(Number.isNaN(value(r, i))), sign = next === "ascending" ? 1 : -1;
      rows.sort((a, b) => last(a) - last(b) || sign * compare(value(a, i), value(b, i)) || 0);
      body.append(...rows);
    };
  });
})();
