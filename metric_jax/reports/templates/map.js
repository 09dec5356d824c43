"use strict";
// The map: plotly draws the points; the image of one that is chosen comes from a sheet of all of them.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("map-data").textContent);
  const [whole, plot, sheet, canvas] = ["map-whole", "map", "map-sheet", "map-image"].map(byId);
  const boxes = [...document.querySelectorAll("#map-classes input")];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches; // a drag scrolls the page there
  const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8b7bd8"];
  const SYMBOLS = ["circle", "square", "diamond", "cross", "triangle-up", "x", "star"];
  const STEPS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  let shown = []; // indices of the points that the filter lets through
  let chosen = null; // the index of one of them

  const projection = () => data.projections[byId("map-projection").value];
  const look = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const pick = (list, indices) => indices.map((i) => list[i]);

  function draw() {
    const wanted = new Set(boxes.filter((box) => box.checked).map((box) => Number(box.value)));
    shown = [...data.of.keys()].filter((i) => !wanted.size || wanted.has(data.of[i]));
    const { x, y, note, title } = projection();
    const ring = shown.includes(chosen) ? [chosen] : [];
    const points = {
      type: "scatter", mode: "markers", hoverinfo: "none", x: pick(x, shown), y: pick(y, shown),
      marker: {
        size: data.of.length > 500 ? 7 : 9,
        opacity: 0.85,
        color: shown.map((i) => COLOURS[data.of[i] % COLOURS.length]),
        symbol: shown.map((i) => SYMBOLS[Math.floor(data.of[i] / COLOURS.length) % SYMBOLS.length]),
      },
    };
    const around = {
      type: "scatter", mode: "markers", hoverinfo: "skip", x: pick(x, ring), y: pick(y, ring),
      marker: { size: 18, symbol: "circle-open", color: look("--ink"), line: { width: 2 } },
    };
    const axis = { showticklabels: false, zeroline: false, gridcolor: look("--line"), linecolor: look("--line"), range: [-1.06, 1.06] };
    Plotly.react(plot, [points, around], {
      autosize: true, margin: { l: 8, r: 8, t: 8, b: 8 }, showlegend: false, hovermode: "closest", uirevision: title,
      dragmode: touch ? false : "zoom", paper_bgcolor: look("--background"), plot_bgcolor: look("--background"),
      modebar: { color: look("--muted"), activecolor: look("--ink"), bgcolor: "rgba(0,0,0,0)" },
      xaxis: axis, yaxis: { ...axis, scaleanchor: "x" },
    }, {
      responsive: true, displaylogo: false, displayModeBar: true,
      modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d"]],
    });
    byId("map-note").textContent = `${shown.length.toLocaleString("en")} of ${data.of.length.toLocaleString("en")} points. ${note}`;
  }

  function choose(index) {
    chosen = index;
    const { columns, width, height } = data.sprite;
    canvas.width = width;
    canvas.height = height;
    canvas.getContext("2d").drawImage(
      sheet, (index % columns) * width, Math.floor(index / columns) * height, width, height, 0, 0, width, height);
    const [kind, name] = [data.classes[data.of[index]], data.names[index]];
    canvas.setAttribute("aria-label", `${kind}, ${name}`);
    byId("map-class").textContent = kind;
    byId("map-name").textContent = name;
    Plotly.restyle(plot, { x: [[projection().x[index]]], y: [[projection().y[index]]] }, [1]);
  }

  // The nearest point that lies that way; of points at one place, the next by its index.
  function neighbour([right, up]) {
    const { x, y } = projection();
    let [best, least] = [chosen, Infinity];
    for (const i of shown) {
      const [dx, dy] = [x[i] - x[chosen], y[i] - y[chosen]];
      const [along, across] = [dx * right + dy * up, Math.abs(dx * up) + Math.abs(dy * right)];
      const order = (i - chosen) * (right + up);
      const cost = dx || dy ? along + 2 * across : -1 / order;
      if ((dx || dy ? along > 0 && across <= along : order > 0) && cost < least) [best, least] = [i, cost];
    }
    return best;
  }

  sheet.decode().then(() => {
    whole.hidden = false;
    draw();
    for (const event of ["plotly_hover", "plotly_click"]) {
      plot.on(event, ({ points }) => choose(shown[points[0].pointNumber]));
    }
    plot.addEventListener("focus", () => shown.includes(chosen) || choose(shown[0]));
    plot.addEventListener("keydown", (event) => {
      if (!(event.key in STEPS)) return;
      event.preventDefault();
      choose(shown.includes(chosen) ? neighbour(STEPS[event.key]) : shown[0]);
    });
    byId("map-projection").addEventListener("change", draw);
    byId("map-classes").addEventListener("change", draw);
    byId("map-all").addEventListener("click", () => {
      for (const box of boxes) box.checked = false;
      draw();
    });
    byId("map-find")?.addEventListener("input", ({ target }) => {
      const part = target.value.toLowerCase();
      for (const box of boxes) box.parentElement.hidden = !box.parentElement.textContent.toLowerCase().includes(part);
    });
    dark.addEventListener("change", draw);
  });
})();
