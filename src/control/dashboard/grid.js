// A table of any length, of which only the rows in sight exist. A row is chosen by key or pointer and stays chosen as
// rows come and go. All that is shown goes through textContent.

const SPARE = 8;

export class Grid {
  #scroller;
  #canvas;
  #empty;
  #heads = new Map();
  #pool = [];
  #rows = [];
  #chosen = null;
  #chosenAt = -1;
  #drawn = false;
  #height = 0;
  #columns;
  #options;

  /**
   * `columns`: [{name, label, text(row, now), tone?(row), numeric?, by?(row, now), wide?}]; `by` makes a column sortable.
   * `options`: {name, label, id(row), none(), onSort(column), onOpen(row), onChoose(row), onScroll()}.
   */
  constructor(panel, columns, options) {
    this.#columns = columns;
    this.#options = options;
    panel.classList.add("grid", options.name);
    const head = element("div", "head");
    head.setAttribute("role", "row");
    head.setAttribute("aria-rowindex", "1");
    for (const column of columns) head.append(this.#head(column));
    const headings = element("div", "headings");
    headings.setAttribute("role", "rowgroup");
    headings.append(head);
    this.#scroller = element("div", "scroller");
    this.#canvas = element("div", "canvas");
    this.#canvas.setAttribute("role", "rowgroup");
    this.#empty = element("p", "none");
    this.#empty.hidden = true;
    this.#scroller.append(this.#canvas, this.#empty);
    const table = element("div", "table");
    table.setAttribute("role", "grid");
    table.setAttribute("aria-label", options.label);
    table.tabIndex = 0;
    this.#scroller.prepend(headings);
    table.append(this.#scroller);
    panel.append(table);
    this.table = table;
    this.#scroller.addEventListener("scroll", () => this.#soon(), { passive: true });
    new ResizeObserver(() => {
      // A narrow window may have rows of another height.
      this.#height = 0;
      for (const slot of this.#pool) slot.index = -1;
      this.#soon();
    }).observe(this.#scroller);
    table.addEventListener("keydown", (pressed) => this.#key(pressed));
  }

  #head(column) {
    const cell = element("div", cellClass(column));
    cell.setAttribute("role", "columnheader");
    this.#heads.set(column.name, cell);
    if (!column.by) {
      cell.textContent = column.label;
      return cell;
    }
    const button = element("button", "sort");
    button.type = "button";
    button.textContent = column.label;
    button.addEventListener("click", () => this.#options.onSort(column));
    cell.append(button);
    return cell;
  }

  sorted(name, direction) {
    for (const [column, cell] of this.#heads) {
      if (column === name) cell.setAttribute("aria-sort", direction);
      else cell.removeAttribute("aria-sort");
    }
  }

  /** New rows, in the order in which they are to be shown. */
  show(rows) {
    this.#rows = rows;
    const at = this.#chosen === null ? -1 : rows.findIndex((row) => this.#options.id(row) === this.#chosen);
    // A row that is gone leaves the choice to its place.
    if (at < 0 && this.#chosen !== null && rows.length > 0) this.#set(Math.min(this.#chosenAt, rows.length - 1));
    else this.#chosenAt = at;
    if (rows.length === 0) this.#chosen = null;
    this.table.setAttribute("aria-rowcount", String(rows.length + 1));
    this.#empty.hidden = rows.length > 0;
    this.#empty.textContent = this.#options.none();
    this.draw();
  }

  get chosen() {
    return this.#rows[this.#chosenAt] ?? null;
  }

  /** The rows in sight. */
  get visible() {
    const [first, last] = this.#window();
    return this.#rows.slice(first, last);
  }

  choose(index) {
    if (this.#rows.length === 0) return;
    this.#set(Math.max(0, Math.min(index, this.#rows.length - 1)));
    const height = this.#rowHeight();
    const top = this.#chosenAt * height;
    const view = this.#scroller;
    // The headings lie on the first of what is in sight.
    const room = view.clientHeight - this.#canvas.offsetTop;
    if (top < view.scrollTop) view.scrollTop = top;
    else if (top + height > view.scrollTop + room) view.scrollTop = top + height - room;
    this.draw();
  }

  #set(index) {
    this.#chosenAt = index;
    this.#chosen = this.#options.id(this.#rows[index]);
    this.#options.onChoose?.(this.#rows[index]);
  }

  #key(pressed) {
    if (pressed.ctrlKey || pressed.metaKey || pressed.altKey) return;
    const page = Math.max(1, Math.floor(this.#scroller.clientHeight / this.#rowHeight()) - 1);
    const step = {
      ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity,
    }[pressed.key];
    if (step !== undefined) {
      pressed.preventDefault();
      this.choose(this.#chosenAt < 0 ? 0 : this.#chosenAt + step);
    } else if (pressed.key === "Enter" && pressed.target === this.table && this.chosen) {
      pressed.preventDefault();
      this.#options.onOpen?.(this.chosen);
    }
  }

  #soon() {
    if (this.#drawn) return;
    this.#drawn = true;
    requestAnimationFrame(() => {
      this.#drawn = false;
      this.draw();
      this.#options.onScroll?.();
    });
  }

  #rowHeight() {
    if (!this.#height) this.#height = Number.parseFloat(getComputedStyle(this.table).getPropertyValue("--row")) || 28;
    return this.#height;
  }

  #window() {
    const height = this.#rowHeight();
    const first = Math.max(0, Math.floor(this.#scroller.scrollTop / height) - SPARE);
    const seen = Math.ceil(this.#scroller.clientHeight / height) + 2 * SPARE;
    return [first, Math.min(this.#rows.length, first + seen)];
  }

  draw() {
    if (this.table.offsetParent === null) return;
    const height = this.#rowHeight();
    const tall = `${this.#rows.length * height}px`;
    if (this.#canvas.style.height !== tall) this.#canvas.style.height = tall;
    const [first, last] = this.#window();
    const now = performance.now();
    while (this.#pool.length < last - first) this.#pool.push(this.#blank());
    // A row's element is that of its place modulo the pool, so that scrolling by one row changes one element.
    for (const slot of this.#pool) slot.used = false;
    for (let index = first; index < last; index++) {
      const slot = this.#pool[index % this.#pool.length];
      slot.used = true;
      this.#fill(slot, index, now, height);
    }
    for (const slot of this.#pool) {
      if (slot.element.hidden === slot.used) slot.element.hidden = !slot.used;
    }
    const chosen = this.#chosenAt >= first && this.#chosenAt < last;
    const active = chosen ? this.#pool[this.#chosenAt % this.#pool.length].element.id : "";
    if (active) this.table.setAttribute("aria-activedescendant", active);
    else this.table.removeAttribute("aria-activedescendant");
  }

  #blank() {
    const row = element("div", "row");
    row.id = `${this.#options.name}-${this.#pool.length}`;
    row.setAttribute("role", "row");
    const slot = { element: row, index: -1, cells: [], used: false };
    for (const column of this.#columns) {
      const cell = element("div", cellClass(column));
      cell.setAttribute("role", "gridcell");
      const text = document.createTextNode("");
      cell.append(text);
      slot.cells.push({ cell, text, tone: "" });
      row.append(cell);
    }
    row.addEventListener("click", () => {
      this.choose(slot.index);
      if (this.chosen) this.#options.onOpen?.(this.chosen);
    });
    this.#canvas.append(row);
    return slot;
  }

  #fill(slot, index, now, height) {
    const row = this.#rows[index];
    if (slot.index !== index) {
      slot.index = index;
      slot.element.style.transform = `translateY(${index * height}px)`;
      slot.element.setAttribute("aria-rowindex", String(index + 2));
    }
    const selected = String(index === this.#chosenAt);
    if (slot.element.getAttribute("aria-selected") !== selected) slot.element.setAttribute("aria-selected", selected);
    this.#columns.forEach((column, at) => {
      const place = slot.cells[at];
      const text = column.text(row, now);
      // What stays the same is not touched: it costs layout, and a selection of text.
      if (place.text.data !== text) {
        place.text.data = text;
        if (column.wide) place.cell.title = text;
      }
      const tone = column.tone?.(row) ?? "";
      if (place.tone !== tone) {
        place.tone = tone;
        if (tone) place.cell.dataset.tone = tone;
        else delete place.cell.dataset.tone;
      }
    });
  }
}

const cellClass = (column) => `cell ${column.name}${column.numeric ? " numeric" : ""}`;

export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}
