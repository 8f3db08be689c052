// Tables of the class `sortable` can be sorted by a click on a heading, and searched. Without JavaScript they are tables.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], rows = [...body.rows];
  const search = Object.assign(document.createElement("input"), { type: "search", className: "search" });
  search.placeholder = `search ${rows.length} rows`;
  search.setAttribute("aria-label", search.placeholder);
  search.oninput = () => {
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(search.value.trim().toLowerCase());
  };
  table.parentElement.before(search);
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button"), text = (row) => row.cells[column].textContent;
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const ascending = head.ariaSort !== "ascending", number = head.classList.contains("number");
      for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
      head.ariaSort = ascending ? "ascending" : "descending";
      rows.sort((a, b) => number ? parseFloat(text(a)) - parseFloat(text(b)) : text(a).localeCompare(text(b)));
      body.append(...(ascending ? rows : rows.toReversed()));
    };
  });
}
