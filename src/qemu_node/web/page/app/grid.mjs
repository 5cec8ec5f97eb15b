// All VMs as cards. Owns the arrow keys, which go from card to card as they lie on the screen.
import { html } from './html.mjs';
import { Card } from './card.mjs';

/** Return which of `boxes` lies next to number `at` in the direction of `key`; -1: none. Pure. */
export function neighbour(boxes, at, key) {
  if (key === 'Home') return 0;
  if (key === 'End') return boxes.length - 1;
  if (key === 'ArrowRight') return at + 1 < boxes.length ? at + 1 : -1;
  if (key === 'ArrowLeft') return at - 1;
  const step = key === 'ArrowDown' ? 1 : -1;
  const here = boxes[at];
  for (let n = at + step; n >= 0 && n < boxes.length; n += step) {
    if (Math.abs(boxes[n].left - here.left) < 2 && boxes[n].top !== here.top) return n;
  }
  return -1;
}

function onKeyDown(event) {
  if (!/^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(event.key) || event.altKey || event.ctrlKey || event.metaKey) return;
  const links = [...event.currentTarget.querySelectorAll('.card > a')];
  const at = links.indexOf(document.activeElement);
  if (at < 0) return;
  const found = neighbour(links.map((link) => link.parentElement.getBoundingClientRect()), at, event.key);
  if (found < 0) return;
  event.preventDefault();
  links[found].focus();
}

export function Grid({ shown, minute }) {
  return html`<ul class="grid" aria-label="Virtual machines" onKeyDown=${onKeyDown}>
    ${shown.map((vm) => html`<${Card} key=${vm.vm_id} vm=${vm} minute=${minute} />`)}
  </ul>`;
}
