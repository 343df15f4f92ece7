// The timeline: lanes of processes, threads and tasks on one canvas that is as large as what is seen of it.

const HEIGHTS = [1, 1, 0.72, 0.72, 1, 0.45, 0.72, 0.2, 0.72]; // running stands tall, waiting is low
const OF_STATE = STATES.map((_, state) => state);
const ORDER = [0, 1, 4, 3, 2, 8, 6, 5, 7].filter((k) => k < STATES.length); // from the floor of a lane upwards
const ROWS = { process: 30, gil: 20, thread: 25, heading: 26, task: 17 };
const PAPER = 3000; // as many pixels of lanes are printed at most

class Timeline {
  constructor(columns) {
    Object.assign(this, { columns, canvas: read("canvas"), overview: read("overview"), scroll: read("scroll"), spacer: read("spacer") });
    this.from = 0;
    this.to = about.horizon;
    this.chosen = -1;
    this.step = -1;
    this.out = new Float64Array(KINDS);
    this.labels = new Map();
    this.rank();
    this.every = this.list();
    this.filter("");
    this.listen();
    new ResizeObserver(() => this.later()).observe(read("lanes"));
  }

  /** The threads that held each process's GIL longest get a colour each; the rest share one. */
  rank() {
    const { heldFor, heldBy } = this.columns;
    const total = new Map();
    for (let i = 0; i < heldFor.length; i++) total.set(heldBy[i], (total.get(heldBy[i]) || 0) + heldFor[i]);
    this.rankOf = new Map();
    for (const [, first, count] of about.gil) {
      const own = new Set();
      for (let i = first; i < first + count; i++) own.add(heldBy[i]);
      [...own].sort((a, b) => total.get(b) - total.get(a)).forEach((thread, place) => this.rankOf.set(thread, Math.min(place, HOLDERS - 1)));
    }
  }

  /** All rows, processes in order, each with its GIL, its threads and its tasks. */
  list() {
    const { start, length, state, note, heldFrom, heldFor, heldBy } = this.columns;
    const rows = [];
    const lanes = { thread: [], task: [] };
    for (const [kind, index, first, count] of about.lanes) {
      const record = profile[kind + "s"][index];
      if (!record) continue;
      const last = first + count;
      const spans = new Spans(start.subarray(first, last), length.subarray(first, last), state.subarray(first, last));
      lanes[kind].push({ kind, index, record, pid: record.pid, name: [record.name, record.function].filter(Boolean).join(" ") || `${kind} ${record.tid ?? record.id}`, spans, note: note.subarray(first, last), heights: HEIGHTS, order: ORDER });
    }
    const pids = new Set([...profile.processes.map((each) => each.pid), ...lanes.thread.map((each) => each.pid), ...lanes.task.map((each) => each.pid)]);
    for (const pid of pids) {
      const process = profile.processes.find((each) => each.pid === pid);
      const threads = lanes.thread.filter((each) => each.pid === pid);
      const tasks = lanes.task.filter((each) => each.pid === pid);
      rows.push({ kind: "process", name: `${process ? process.name : "process"}`, pid, title: `process ${pid}` });
      for (const [owner, first, count] of about.gil) {
        if (owner !== pid || !count) continue;
        const last = first + count;
        const kinds = Uint8Array.from(heldBy.subarray(first, last), (thread) => this.rankOf.get(thread));
        rows.push({ kind: "gil", name: "GIL held by", pid, spans: new Spans(heldFrom.subarray(first, last), heldFor.subarray(first, last), kinds), holder: heldBy.subarray(first, last), heights: HEIGHTS.map(() => 1), order: OF_STATE });
      }
      rows.push(...threads);
      if (tasks.length) rows.push({ kind: "heading", name: many(tasks.length, "task"), pid }, ...tasks);
    }
    this.threads = rows.filter((each) => each.kind === "thread");
    return rows;
  }

  filter(text) {
    const wanted = text.trim().toLowerCase();
    const hit = (row) => !wanted || row.name.toLowerCase().includes(wanted) || String(row.record?.tid ?? "").includes(wanted);
    const hits = new Set(this.every.filter((row) => row.record && hit(row)).map((row) => row.pid));
    this.rows = this.every.filter((row) => (row.record ? hit(row) : !wanted || (row.kind !== "heading" && hits.has(row.pid))));
    let y = 0;
    for (const row of this.rows) {
      row.y = y;
      y += ROWS[row.kind];
    }
    this.height = y + 6;
    this.chosen = this.step = -1;
    this.spacer.style.height = `${Math.max(this.height, 60)}px`;
    this.later();
  }

  later() {
    if (!this.due) this.due = requestAnimationFrame(() => { this.due = 0; this.draw(); });
  }

  /** Takes the colours from the page. For paper it draws at once, since a printer does not wait for the next frame, and all lanes. */
  theme(paper = false) {
    this.paper = paper;
    const style = getComputedStyle(document.documentElement);
    const css = (name) => style.getPropertyValue(name).trim();
    const word = (name) => {
      const value = parseInt(css(name).slice(1), 16);
      return ((255 << 24) | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
    };
    const each = (letter) => STATES.map((_, i) => `--${letter}${i}`);
    this.colors = { state: each("s").map(word), holder: each("h").map(word), holderCss: each("h").map(css), track: word("--track"), grid: word("--line"), sheet: word("--sheet"), ink: css("--ink"), soft: css("--soft"), line: css("--line"), accent: css("--accent"), sheetCss: css("--sheet"), sans: css("--sans") };
    if (paper) this.draw();
    else this.later();
  }

  /** Where the time begins on the canvas, and how wide it is, in CSS pixels. */
  get left() { return this.width < 620 ? 104 : 188; }
  get span() { return Math.max(1, this.width - this.left - 10); }
  xOf(time) { return this.left + ((time - this.from) / (this.to - this.from)) * this.span; }
  timeOf(x) { return this.from + ((x - this.left) / this.span) * (this.to - this.from); }

  draw() {
    if (!this.colors) return;
    const began = performance.now();
    const width = this.scroll.clientWidth;
    const high = Math.max(60, Math.min(this.paper ? PAPER : this.scroll.clientHeight, this.height));
    if (!width) return;
    const scale = Math.min(3, window.devicePixelRatio || 1);
    this.width = width;
    for (const [canvas, height] of [[this.canvas, high], [this.overview, 62]]) {
      const w = Math.round(width * scale), h = Math.round(height * scale);
      if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    this.drawRows(scale, high);
    this.drawOverview(scale);
    const { dataset } = read("lanes");
    Object.assign(dataset, { from: this.from, to: this.to, ms: (performance.now() - began).toFixed(2), left: this.left, drawn: Number(dataset.drawn || 0) + 1 });
  }

  drawRows(scale, high) {
    const { canvas, colors } = this;
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    const pixels = new Uint32Array(image.data.buffer);
    pixels.fill(colors.sheet);
    for (const time of this.ticks()) {
      const x = Math.round(this.xOf(time) * scale);
      for (let at = x; at < pixels.length; at += canvas.width) pixels[at] = colors.grid;
    }
    const top = this.paper ? 0 : this.scroll.scrollTop;
    const seen = this.rows.filter((row) => row.y + ROWS[row.kind] > top && row.y < top + high);
    for (const row of seen) {
      if (!row.spans) continue;
      const inset = row.kind === "task" ? 2 : row.kind === "gil" ? 4 : 3;
      const y0 = Math.round((row.y - top + inset) * scale);
      const y1 = Math.round((row.y - top + ROWS[row.kind] - (row.kind === "task" ? 1 : 2)) * scale);
      this.paint(row, pixels, canvas.width, canvas.height, this.left * scale, this.span * scale, this.from, this.to, y0, y1);
    }
    context.putImageData(image, 0, 0);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.textBaseline = "middle";
    seen.forEach((row) => this.label(context, row, row.y - top));
    const row = this.rows[this.chosen];
    if (row) {
      context.strokeStyle = colors.accent;
      context.lineWidth = 1.5;
      context.strokeRect(1, row.y - top + 0.5, this.width - 2, ROWS[row.kind] - 1);
      if (row.spans && this.step >= 0) {
        const a = Math.max(this.left, this.xOf(row.spans.start[this.step] * about.tick));
        const b = Math.min(this.left + this.span, this.xOf(row.spans.end(this.step) * about.tick));
        context.lineWidth = 2.5;
        context.strokeStyle = colors.ink;
        if (b >= a) context.strokeRect(a - 1, row.y - top + 2, Math.max(3, b - a + 2), ROWS[row.kind] - 4);
      }
    }
  }

  /** One lane, a column of pixels at a time: the share of each state in its time. */
  paint(row, pixels, stride, limit, left, span, from, to, y0, y1) {
    const { spans, heights, order } = row;
    const palette = row.kind === "gil" ? this.colors.holder : this.colors.state;
    const width = Math.floor(span), x0 = Math.round(left), tall = y1 - y0;
    const each = (to - from) / width / about.tick, zero = from / about.tick;
    const top = Math.max(0, y0), floor = Math.min(limit, y1);
    const fill = (x, high, low, word) => {
      for (let y = Math.max(top, high), at = y * stride + x; y < Math.min(floor, low); y++, at += stride) pixels[at] = word;
    };
    const { out } = this;
    let i = spans.after(zero);
    for (let column = 0; column < width; column++) {
      const x = x0 + column, begin = zero + column * each;
      if (i >= spans.count && column) break;
      i = spans.between(begin, begin + each, i, out);
      let total = 0, most = -1;
      for (let k = 0; k < KINDS; k++) {
        total += out[k];
        if (out[k] > 0 && (most < 0 || out[k] > out[most])) most = k;
      }
      if (most < 0) continue;
      fill(x, y1 - tall, y1, this.colors.track);
      // Where one state gives way to the next, the longer one has the pixel; more than two share it, and what is short is low.
      if (spans.touched <= 2 && total > 0.5 * each) {
        fill(x, Math.round(y1 - tall * heights[most]), y1, palette[most]);
        continue;
      }
      let level = y1;
      for (const k of order) {
        if (out[k] <= 0) continue;
        const next = level - (out[k] / Math.max(each, total)) * heights[k] * tall;
        fill(x, Math.round(next), Math.round(level), palette[k]);
        level = next;
      }
      if (level > y1 - 2) fill(x, y1 - 2, y1, palette[most]);
    }
  }

  label(context, row, y) {
    const { colors } = this;
    const middle = y + ROWS[row.kind] / 2 + 1;
    const small = this.width < 620;
    let x = 12, size = 12.5, weight = 400, ink = colors.ink;
    if (row.kind === "process") {
      context.fillStyle = colors.line;
      if (row.y) context.fillRect(0, Math.round(y), this.width, 1);
      weight = 650;
    } else if (row.kind === "heading") {
      weight = 600;
      size = 12;
    } else if (row.kind === "gil") {
      size = 11.5;
      ink = colors.soft;
      x = 24;
    } else {
      x = 24;
      if (row.kind === "task") { size = 11; ink = colors.soft; }
      if (row.kind === "thread" && this.rankOf.has(row.index)) {
        context.fillStyle = colors.holderCss[this.rankOf.get(row.index)];
        context.fillRect(11, middle - 4.5, 7, 9);
      }
    }
    context.font = `${weight} ${size}px ${colors.sans}`;
    context.fillStyle = ink;
    const room = row.spans ? this.left - x - 10 : this.width - x - (row.title && !small ? 150 : 16);
    const text = this.fit(context, plain(row.name), room);
    context.fillText(text, x, middle);
    if (row.title && !small) {
      const after = x + context.measureText(text).width + 12;
      context.font = `400 12px ${colors.sans}`;
      context.fillStyle = colors.soft;
      context.fillText(row.title, after, middle);
    }
  }

  /** As much of a text as there is room for. */
  fit(context, text, room) {
    const key = `${context.font}|${Math.round(room)}|${text}`;
    let fitted = this.labels.get(key);
    if (fitted === undefined) {
      fitted = text.slice(0, 200);
      if (context.measureText(fitted).width > room) {
        const letters = [...fitted];
        let low = 0, high = letters.length;
        while (low < high) {
          const middle = (low + high + 1) >> 1;
          if (context.measureText(letters.slice(0, middle).join("") + "…").width <= room) low = middle;
          else high = middle - 1;
        }
        fitted = letters.slice(0, low).join("") + "…";
      }
      if (this.labels.size > 5000) this.labels.clear();
      this.labels.set(key, fitted);
    }
    return fitted;
  }

  ticks() {
    const wanted = (this.to - this.from) / Math.max(2, this.span / 110);
    const power = 10 ** Math.floor(Math.log10(wanted));
    const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= wanted);
    const found = [];
    for (let i = Math.ceil(this.from / step); i * step <= this.to; i++) found.push(i * step);
    this.tick = step;
    return found;
  }

  /** All of the time at once, what is seen of it marked, and its scale below. */
  drawOverview(scale) {
    const { overview, colors } = this;
    const context = overview.getContext("2d");
    const key = `${overview.width} ${colors.sheetCss}`;
    if (this.sketchKey !== key) {
      this.sketchKey = key;
      this.sketch = context.createImageData(overview.width, Math.round(34 * scale));
      const pixels = new Uint32Array(this.sketch.data.buffer);
      pixels.fill(colors.sheet);
      const all = this.sum(Math.floor(this.span * scale));
      const x0 = Math.round(this.left * scale), y0 = Math.round(5 * scale), y1 = Math.round(32 * scale);
      all.forEach((out, column) => {
        let level = y1;
        const total = out.reduce((a, b) => a + b, 0);
        for (const k of total ? ORDER : []) {
          const next = level - (out[k] / total) * (y1 - y0);
          for (let y = Math.round(next); y < Math.round(level); y++) pixels[y * overview.width + x0 + column] = colors.state[k];
          level = next;
        }
      });
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = colors.sheetCss;
    context.fillRect(0, 0, overview.width, overview.height);
    context.putImageData(this.sketch, 0, 0);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.textBaseline = "middle";
    context.font = `600 12px ${colors.sans}`;
    context.fillStyle = colors.ink;
    context.fillText(this.fit(context, "All threads", this.left - 16), 12, 19);
    const at = (time) => this.left + (time / about.horizon) * this.span;
    const a = at(this.from), b = Math.max(a + 2, at(this.to));
    if (b - a < this.span - 1) {
      context.globalAlpha = 0.74;
      context.fillStyle = colors.sheetCss;
      context.fillRect(this.left, 4, a - this.left, 30);
      context.fillRect(b, 4, this.left + this.span - b, 30);
      context.globalAlpha = 1;
      context.strokeStyle = colors.ink;
      context.lineWidth = 1.5;
      context.strokeRect(a, 4, b - a, 29);
    }
    if (this.range) {
      context.globalAlpha = 0.3;
      context.fillStyle = colors.accent;
      const x = this.range.map((time) => (this.range.whole ? at(time) : this.xOf(time)));
      context.fillRect(Math.min(...x), 2, Math.abs(x[1] - x[0]), 58);
      context.globalAlpha = 1;
    }
    context.font = `400 11px ${colors.sans}`;
    context.fillStyle = colors.soft;
    context.textAlign = "center";
    for (const time of this.ticks()) {
      const x = this.xOf(time);
      context.fillRect(Math.round(x), 38, 1, 4);
      if (x > this.left - 1 && x < this.left + this.span + 1) context.fillText(instant(time, this.tick, this.to), Math.min(x, this.width - 30), 51);
    }
    context.textAlign = "left";
    context.fillText(`${seconds(this.to - this.from)}${this.width < 620 ? "" : " shown"}`, 12, 51);
  }

  /** What all threads do, in so many columns of the whole time. */
  sum(columns) {
    const each = about.horizon / columns / about.tick;
    const all = Array.from({ length: columns }, () => new Float64Array(KINDS));
    for (const { spans } of this.threads) {
      let i = 0;
      for (let column = 0; column < columns && i < spans.count; column++) {
        i = spans.between(column * each, (column + 1) * each, i, this.out);
        for (let k = 0; k < KINDS; k++) all[column][k] += this.out[k];
      }
    }
    return all;
  }

  /** Shows this range, or as much of it as there is. */
  show(from, to) {
    const least = Math.max(about.tick * 50, 2e-7);
    let length = Math.min(about.horizon, Math.max(least, to - from));
    from = Math.min(Math.max(0, from + (to - from - length) / 2), about.horizon - length);
    this.from = from;
    this.to = from + length;
    this.later();
  }

  zoom(factor, around = (this.from + this.to) / 2) {
    this.show(around - (around - this.from) * factor, around + (this.to - around) * factor);
  }

  pan(part) {
    const by = (this.to - this.from) * part;
    const shift = Math.min(Math.max(by, -this.from), about.horizon - this.to);
    this.show(this.from + shift, this.to + shift);
  }

  do(what) {
    ({ left: () => this.pan(-0.25), right: () => this.pan(0.25), in: () => this.zoom(0.5), out: () => this.zoom(2), all: () => this.show(0, about.horizon) })[what]();
  }

  rowAt(y) {
    const at = y + this.scroll.scrollTop;
    return this.rows.findIndex((row) => at >= row.y && at < row.y + ROWS[row.kind]);
  }

  listen() {
    const { scroll, overview } = this;
    read("timeline").querySelectorAll("[data-do]").forEach((button) => button.addEventListener("click", () => this.do(button.dataset.do)));
    read("lane-filter").addEventListener("input", (event) => this.filter(event.target.value));
    scroll.addEventListener("scroll", () => this.later());
    scroll.addEventListener("keydown", (event) => this.key(event));
    const wheel = (event) => {
      const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY) ? event.deltaX : event.shiftKey ? event.deltaY : 0;
      if (sideways) this.pan(sideways / 900);
      else if (event.ctrlKey || event.metaKey || document.activeElement === scroll) this.zoom(Math.exp(Math.max(-240, Math.min(240, event.deltaY)) * 0.0022), this.timeOf(Math.max(this.left, event.offsetX)));
      else return;
      event.preventDefault();
    };
    scroll.addEventListener("wheel", wheel, { passive: false });
    this.drag(overview, true);
    this.drag(scroll, false);
    scroll.addEventListener("dblclick", (event) => this.enter(this.rowAt(event.clientY - scroll.getBoundingClientRect().top), this.timeOf(event.offsetX)));
    scroll.addEventListener("pointermove", (event) => this.hover(event));
    for (const end of ["pointerleave", "pointerdown"]) scroll.addEventListener(end, () => { read("tip").hidden = true; });
  }

  /** Dragging moves the lanes, or chooses a range: in the overview, and with the Shift key. */
  drag(element, over) {
    element.addEventListener("pointerdown", (event) => {
      if (event.button || (event.pointerType === "touch" && !over)) return;
      const x = (each) => each.clientX - element.getBoundingClientRect().left;
      if (!over && x(event) > this.scroll.clientWidth) return; // its scroll bar
      const time = (each) => (over ? Math.min(about.horizon, Math.max(0, ((x(each) - this.left) / this.span) * about.horizon)) : this.timeOf(x(each)));
      const first = time(event), { from, to } = this, began = x(event), y = event.clientY, scrolled = this.scroll.scrollTop;
      const choosing = over || event.shiftKey;
      let moved = false;
      element.setPointerCapture(event.pointerId);
      const move = (each) => {
        moved = moved || Math.abs(x(each) - began) + Math.abs(each.clientY - y) > 3;
        if (!moved) return;
        if (choosing) {
          this.range = Object.assign([first, time(each)], { whole: over });
          this.later();
        } else {
          const by = ((began - x(each)) / this.span) * (to - from);
          const shift = Math.min(Math.max(by, -from), about.horizon - to);
          this.show(from + shift, to + shift);
          this.scroll.scrollTop = scrolled + y - each.clientY;
        }
      };
      const end = (each) => {
        element.removeEventListener("pointermove", move);
        this.range = null;
        if (choosing && moved) this.show(Math.min(first, time(each)), Math.max(first, time(each)));
        else if (choosing && over) this.show(first - (to - from) / 2, first + (to - from) / 2);
        else if (!moved) this.choose(this.rowAt(each.clientY - element.getBoundingClientRect().top), this.timeOf(x(each)));
      };
      element.addEventListener("pointermove", move);
      for (const last of ["pointerup", "pointercancel"]) element.addEventListener(last, end, { once: true });
    });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowUp: -1, ArrowDown: 1 };
    const named = { ArrowLeft: "left", ArrowRight: "right", "+": "in", "=": "in", "-": "out", "_": "out", 0: "all", Home: "all" };
    if (event.key in steps) {
      let row = this.chosen + steps[event.key];
      while (this.rows[row] && !this.rows[row].spans) row += steps[event.key];
      if (this.rows[row]) this.choose(row, (this.from + this.to) / 2);
    } else if (event.key in named) this.do(named[event.key]);
    else if (["n", "p", "N", "P"].includes(event.key) && this.rows[this.chosen]) this.next(event.key.toLowerCase() === "n" ? 1 : -1);
    else if (event.key === "Enter" && this.step >= 0) this.enter(this.chosen, (this.rows[this.chosen].spans.start[this.step] + 0.5) * about.tick);
    else return;
    event.preventDefault();
  }

  choose(row, time) {
    const { spans, y, kind } = this.rows[row] || {};
    this.chosen = spans ? row : -1;
    this.step = spans && spans.count ? Math.min(spans.count - 1, spans.after(time / about.tick)) : -1;
    if (spans) {
      if (y < this.scroll.scrollTop) this.scroll.scrollTop = y;
      else if (y + ROWS[kind] > this.scroll.scrollTop + this.scroll.clientHeight) this.scroll.scrollTop = y + ROWS[kind] - this.scroll.clientHeight;
      this.tell(this.rows[row], this.step);
    }
    this.later();
  }

  next(by) {
    const { spans } = this.rows[this.chosen];
    this.step = Math.min(spans.count - 1, Math.max(0, this.step + by));
    const begin = spans.start[this.step] * about.tick, end = spans.end(this.step) * about.tick;
    if (end < this.from || begin > this.to) {
      const half = (this.to - this.from) / 2, middle = (begin + end) / 2;
      this.show(middle - half, middle + half);
    }
    this.tell(this.rows[this.chosen], this.step);
    this.later();
  }

  /** Zooms to the span at this time. */
  enter(row, time) {
    const { spans } = this.rows[row] || {};
    if (!spans || !spans.count) return;
    const i = Math.min(spans.count - 1, spans.after(time / about.tick));
    const begin = spans.start[i] * about.tick, end = spans.end(i) * about.tick;
    this.show(Math.max(0, begin - (end - begin) * 0.3), Math.min(about.horizon, end + (end - begin) * 0.3));
  }

  /** What a span is, in words: name, state, when, how long, what for. */
  describe(row, i) {
    const { spans } = row;
    const begin = spans.start[i] * about.tick, length = spans.length[i] * about.tick;
    const when = `${seconds(length)}, from ${instant(begin, Math.max(about.tick, length / 100), about.horizon)} on`;
    if (row.kind === "gil") {
      const thread = profile.threads[row.holder[i]];
      return { title: `GIL held by ${thread ? plain(thread.name) : "a thread"}`, color: this.colors.holderCss[spans.kind[i]], when, what: this.doing(row.holder[i], begin, length) };
    }
    const state = spans.kind[i];
    const title = row.kind === "task" ? { 0: "Running", 2: "Ready, its loop is busy", 5: "Awaiting" }[state] ?? words.states[state].title : words.states[state].title;
    const note = row.note[i] >= 0 ? profile.notes?.[row.note[i]] : "";
    return { title: `${plain(row.name)}: ${title}`, color: color(state), when, what: plain(note || "") || (row.kind === "thread" ? this.doing(row.index, begin, length) : plain(row.record.function || "")) };
  }

  /** The function that a thread was seen in within a span, or nothing. */
  doing(thread, begin, length) {
    const { sampleThread, sampleAt, sampleFrame, frameFunction, frameLine } = this.columns;
    let low = 0, high = sampleAt.length;
    const from = begin / about.tick, to = (begin + length) / about.tick;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sampleAt[middle] >= from) high = middle;
      else low = middle + 1;
    }
    for (let i = low; i < sampleAt.length && sampleAt[i] <= to && i < low + 4000; i++) {
      if (sampleThread[i] !== thread || sampleFrame[i] < 0) continue;
      const record = profile.functions[frameFunction[sampleFrame[i]]];
      return record ? `in ${plain(record.function)}, ${shortPath(record.file)}:${frameLine[sampleFrame[i]]}` : "";
    }
    return "";
  }

  tell(row, i) {
    const line = read("detail");
    if (i < 0) return line.replaceChildren(bdi(row.name), " has no states.");
    const { title, when, what } = this.describe(row, i);
    line.replaceChildren(make("b", {}, bdi(title)), ` ${when}. `, what ? bdi(what) : "");
  }

  hover(event) {
    const tip = read("tip");
    const box = this.scroll.getBoundingClientRect();
    const x = event.clientX - box.left, row = this.rows[this.rowAt(event.clientY - box.top)];
    tip.hidden = true;
    if (event.buttons || !row) return;
    const place = () => {
      tip.hidden = false;
      tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8))}px`;
      tip.style.top = `${event.clientY + 18 + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 12 : event.clientY + 18}px`;
    };
    if (x < this.left && row.name && row.kind !== "process") {
      tip.replaceChildren(make("b", {}, bdi(row.name)), row.record ? `${row.kind} ${row.record.tid ?? row.record.id} of process ${row.pid}, ${seconds(row.record.wall)}` : "");
      if (row.record) place();
      return;
    }
    if (!row.spans || !row.spans.count || x > this.left + this.span) return;
    const begin = this.timeOf(x - 0.5) / about.tick, end = this.timeOf(x + 0.5) / about.tick;
    const first = row.spans.after(begin);
    if (first >= row.spans.count || row.spans.start[first] > end) return;
    row.spans.between(begin, end, first, this.out);
    if (row.spans.touched <= 2) {
      const { title, color: paint, when, what } = this.describe(row, first);
      tip.replaceChildren(make("b", {}, make("i", { style: { background: paint } }), bdi(title)), when, what ? make("br") : "", what ? bdi(what) : "");
    } else {
      const shares = [...this.out.keys()].filter((k) => this.out[k] > 0).sort((a, b) => this.out[b] - this.out[a]);
      const name = (k) => (row.kind === "gil" ? plain(profile.threads.find((_, thread) => this.rankOf.get(thread) === k && profile.threads[thread].pid === row.pid)?.name ?? "others") : words.states[k].title);
      tip.replaceChildren(make("b", {}, bdi(row.name)), `${many(row.spans.touched, "state")} in ${seconds((end - begin) * about.tick)}`,
        ...shares.slice(0, 5).flatMap((k) => [make("br"), make("i", { style: { background: row.kind === "gil" ? this.colors.holderCss[k] : color(k) } }), `${percent(this.out[k] / (end - begin))} `, bdi(name(k))]));
    }
    place();
  }
}
