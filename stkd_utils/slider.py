"""One temperature slider as HTML: bars that follow tau, drawn in the page itself.

Plain elements and a few lines of JavaScript, with styles on the elements: nothing is fetched, nothing is installed, and
it works in the static book, in Jupyter and in Colab. Without JavaScript the bars of the first temperature stay.
"""

import base64
import html
import io
import json

import torch
from PIL import Image

from . import losses, plots

PLATE = (
    "box-sizing:border-box;max-width:34rem;margin:0.5rem 0;padding:0.9rem 1rem;background:#ffffff;color:#222222;"
    "border:1px solid #c8c8c8;border-radius:0.4rem;font-family:inherit;font-size:1rem;line-height:1.4"
)
TOP = "display:flex;flex-wrap:wrap;gap:0.9rem;align-items:center;margin-bottom:0.6rem"
PICTURE = "width:5rem;height:5rem;image-rendering:pixelated;border:1px solid #c8c8c8;background:#ffffff;margin:0"
CONTROL = "flex:1 1 12rem;display:block;font-weight:600;color:#222222"
RANGE = "display:block;width:100%;height:1.75rem;margin:0.2rem 0 0;accent-color:{colour};cursor:pointer"
SAID = "display:block;min-height:2.8em;margin-bottom:0.4rem;color:#222222"
ROW = "display:flex;align-items:center;gap:0.5rem;height:1.5rem"
NAME = "flex:0 0 {width}ch;text-align:right;overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
TRACK = "flex:1 1 auto;height:1rem;background:#eeeeee"
BAR = "width:{percent:.2f}%;height:100%;min-width:1px;background:{colour}"
VALUE = "flex:0 0 4.5em;text-align:right;font-variant-numeric:tabular-nums"

# Several sliders on one page each run this; a slider that moves already is left alone.
SCRIPT = """
document.querySelectorAll(".tau-slider:not([data-moves])").forEach((box) => {
  box.dataset.moves = "yes";
  const logits = JSON.parse(box.dataset.logits), names = JSON.parse(box.dataset.names);
  const range = box.querySelector("input"), said = box.querySelector("output");
  const rows = [...box.querySelectorAll("[data-class]")];
  const follow = () => {
    const tau = Number(range.value), top = Math.max(...logits);
    const raised = logits.map((logit) => Math.exp((logit - top) / tau));
    const sum = raised.reduce((a, b) => a + b, 0), p = raised.map((value) => value / sum);
    rows.forEach((row) => {
      const percent = 100 * p[Number(row.dataset.class)];
      row.querySelector("[data-bar]").style.width = percent.toFixed(2) + "%";
      row.querySelector("[data-value]").textContent = percent.toFixed(1) + " %";
    });
    const best = p.indexOf(Math.max(...p));
    const spread = Math.exp(p.reduce((a, q) => a - (q > 0 ? q * Math.log(q) : 0), 0));
    said.textContent = `τ = ${tau}: class ${names[best]} gets ${(100 * p[best]).toFixed(1)} %; ` +
      `belief as wide as ${spread.toFixed(1)} equal classes`;
  };
  range.addEventListener("input", follow);
  follow();
});
"""


class TauSlider:
    """An interactive figure for notebook and book: class probabilities that follow a temperature from 1 to 20.

    Parameters
    ----------
    logits : (classes,) of one image.
    class_names : one name a class; numbers by default.
    image : (C, H, W) uint8, shown beside the slider, or None.
    tau : temperature at the start, a whole number from 1 to 20.
    show : with more classes than this only the most probable ones get a bar; probabilities stay those over all classes.
    role : whose colour the bars have, a key of `plots.ROLES`.

    Hinton et al. 2015, eq. 1. Introduced in notebook 03. Raises ValueError for logits that are not one finite vector.
    """

    def __init__(self, logits, *, class_names=None, image=None, tau=1, show=10, role="teacher"):
        logits = torch.as_tensor(logits).detach().cpu().double()
        if logits.dim() != 1 or not torch.isfinite(logits).all():
            raise ValueError(f"The slider takes the finite logits of one image; got the shape {tuple(logits.shape)}.")
        self.logits, self.image, self.tau = logits, image, tau
        self.names = [str(name) for name in (range(len(logits)) if class_names is None else class_names)]
        self.shown = logits.argsort(descending=True)[:show].tolist() if len(logits) > show else range(len(logits))
        self.colour = plots.ROLES[role].colour

    def _repr_html_(self):
        data = f'data-logits="{_attribute(self.logits.tolist())}" data-names="{_attribute(self.names)}"'
        return "\n".join([
            f'<div class="tau-slider" role="group" aria-label="Softening by temperature" style="{PLATE}" {data}>',
            f'<div style="{TOP}">{self._picture()}<label style="{CONTROL}">Temperature τ, 1 to 20',
            f'<input type="range" min="1" max="20" step="1" value="{self.tau}" style="{RANGE}"></label></div>'.format(
                colour=self.colour
            ),
            f'<output aria-live="polite" style="{SAID}">τ = {self.tau}</output>',
            *self._rows(),
            "</div>",
            f"<script>{SCRIPT}</script>",
        ])  # fmt: skip

    def __repr__(self):
        return f"TauSlider({len(self.logits)} classes; move it in a browser)"

    def _rows(self):
        p = losses.soften(self.logits, self.tau)
        name = NAME.format(width=min(12, 1 + max(len(self.names[k]) for k in self.shown)))
        for k in self.shown:
            percent = 100 * p[k].item()
            bar = f'<div data-bar style="{BAR.format(percent=percent, colour=self.colour)}"></div>'
            yield (
                f'<div data-class="{k}" style="{ROW}"><div style="{name}">{html.escape(self.names[k])}</div>'
                f'<div style="{TRACK}">{bar}</div><div data-value style="{VALUE}">{percent:.1f} %</div></div>'
            )

    def _picture(self):
        if self.image is None:
            return ""
        pixels = self.image.cpu().permute(1, 2, 0).squeeze(-1).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        source = base64.b64encode(file.getvalue()).decode()
        return f'<img alt="The image that the teacher sees" style="{PICTURE}" src="data:image/png;base64,{source}">'


def _attribute(value):
    return html.escape(json.dumps(value))
