// Puts the page together.

function legend() {
  const sums = STATES.map((name) => profile.threads.reduce((sum, each) => sum + spent(each, name), 0));
  const total = sums.reduce((a, b) => a + b, 0);
  read("whole").setAttribute("aria-label", words.states.map((each, k) => `${each.title} ${percent(total ? sums[k] / total : 0)}`).join(", "));
  read("whole").append(...sums.flatMap((sum, k) => (sum > 0 ? [make("i", { style: { flex: `${sum} 0 0`, background: color(k) }, title: `${words.states[k].title} ${percent(sum / total)}, ${seconds(sum)}` })] : [])));
  read("legend").append(...words.states.map((each, k) => make("li", { class: sums[k] ? null : "none" },
    make("span", { class: "swatch", "aria-hidden": "true" }, make("i", { style: { height: `${HEIGHTS[k] * 100}%`, background: color(k) } })),
    make("b", {}, each.title), make("span", { class: "much" }, total ? percent(sums[k] / total) : "0%"),
    make("small", {}, `${each.meaning}${sums[k] ? ` ${seconds(sums[k]).replace(" ", "\u00a0")}\u00a0in\u00a0all.` : ""}`))));
  if (!total) read("whole").hidden = true;
}

function theme(redraw) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const printing = matchMedia("print");
  let onPaper = false;
  let choice = "auto";
  try { choice = localStorage.getItem("plait-theme") || "auto"; } catch { /* pages from files may have no storage */ }
  const apply = () => {
    const dark = !onPaper && !printing.matches && (choice === "dark" || (choice === "auto" && system.matches));
    document.documentElement.dataset.scheme = dark ? "dark" : "light";
    document.querySelectorAll("[data-theme]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.theme === choice)));
    redraw(onPaper);
  };
  document.querySelectorAll("[data-theme]").forEach((button) => button.addEventListener("click", () => {
    choice = button.dataset.theme;
    try { localStorage.setItem("plait-theme", choice); } catch { /* as above */ }
    apply();
  }));
  system.addEventListener("change", apply);
  printing.addEventListener("change", apply);
  addEventListener("beforeprint", () => { onPaper = true; apply(); });
  addEventListener("afterprint", () => { onPaper = false; apply(); });
  apply();
}

async function main() {
  let timeline = null;
  theme((paper) => timeline?.theme(paper));
  legend();
  tables();
  let columns = null;
  try {
    columns = await unpack();
  } catch (error) {
    read("trouble").textContent = error.message;
    read("trouble").hidden = false;
  }
  if (columns && columns.start.length) {
    read("timeline").hidden = false;
    timeline = new Timeline(columns);
    timeline.theme();
  }
  if (profile.threads.length) {
    read("bursts").hidden = false;
    threadChoice(read("burst-thread"), (threads) => {
      histogram(read("cpu-bursts"), burstsOf(threads, "cpu_bursts", timeline), "bar-cpu");
      histogram(read("io-bursts"), burstsOf(threads, "io_bursts", timeline), "bar-io");
    });
  }
  if (columns && columns.sampleFrame.length && profile.functions.length) {
    read("flame").hidden = false;
    const flame = new Flame(columns);
    threadChoice(read("flame-thread"), (threads) => flame.merge(threads));
  }
  document.documentElement.dataset.ready = "yes";
}

main();
