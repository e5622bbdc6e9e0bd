// Draws FIGURES, {id of an element: plotly's data and layout}.
const grid = {fixedrange: matchMedia("(pointer: coarse)").matches,
  gridcolor: "#8883", zerolinecolor: "#8886",
  linecolor: "#8886", automargin: true};
for (const [id, figure] of Object.entries(FIGURES)) {
  const axes = Object.fromEntries(["xaxis", "yaxis"].map(
    name => [name, {...grid, ...(figure.layout[name] || {})}]));
  const layout = {
    paper_bgcolor: "#0000", plot_bgcolor: "#0000", margin: {l: 50, r: 12, t: 10, b: 42},
    font: {family: "system-ui, sans-serif", size: 13}, hoverlabel: {bgcolor: "#333"},
    legend: {orientation: "h", y: 1, yanchor: "bottom", x: 0},
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", ...figure.layout, ...axes};
  Plotly.newPlot(id, figure.data, layout, {responsive: true, displayModeBar: false});
}
const resize = () => document.querySelectorAll(".js-plotly-plot").forEach(
  plot => Plotly.Plots.resize(plot));
addEventListener("beforeprint", resize);
addEventListener("afterprint", resize);
