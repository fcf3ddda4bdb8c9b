// Draws the plots, in the light or the dark palette, and again when the reader's choice changes or the page is printed.
(() => {
  const darker = JSON.parse(document.getElementById("palette").textContent);
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const forPrint = matchMedia("print");
  const PRINT_WIDTH = 640;

  const recolour = (value, palette) => {
    if (typeof value === "string") return palette[value] ?? value;
    if (Array.isArray(value)) return value.map((inner) => recolour(inner, palette));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, recolour(inner, palette)]));
    }
    return value;
  };

  const draw = (printing) => {
    const palette = prefersDark.matches && !printing ? darker : {};
    for (const place of document.querySelectorAll(".plot")) {
      const spec = recolour(JSON.parse(place.parentElement.querySelector("script").textContent), palette);
      if (printing) spec.layout.width = PRINT_WIDTH;
      Plotly.react(place, spec.data, spec.layout, { displayModeBar: false });
    }
  };

  draw(forPrint.matches);
  const fit = new ResizeObserver((entries) => {
    for (const { target } of entries) if (!forPrint.matches && target.layout) Plotly.Plots.resize(target);
  });
  for (const place of document.querySelectorAll(".plot")) fit.observe(place);
  prefersDark.addEventListener("change", () => draw(false));
  addEventListener("beforeprint", () => draw(true));
  addEventListener("afterprint", () => draw(false));
})();
