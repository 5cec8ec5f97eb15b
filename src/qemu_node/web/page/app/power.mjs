// A VM's buttons: power, reset, stop, restart. What loses work is asked first.
import { html, useState } from './html.mjs';
import { post, vmPath } from './api.mjs';
import { title } from './choose.mjs';
import { attempt, Dialog } from './dialog.mjs';
import { Menu } from './menu.mjs';

const ACTIONS = {
  'power-button': ['Power button', null],
  restart: ['Restart by Nomad', 'Nomad stops the guest and starts its task again.'],
  reset: ['Reset', 'The guest is not asked: what it has not written is lost.'],
  stop: ['Stop', 'The guest is shut down. With Nomad, its allocation is stopped, and the job may place another one.'],
};

export function Power({ vm }) {
  const [asked, setAsked] = useState(null);
  const act = (name) => attempt(() => post(vmPath(vm.vm_id, `/${name}`)), `${ACTIONS[name][0]}: done.`);
  const items = Object.entries(ACTIONS).map(([name, [words, warning]]) => [
    words, () => (warning ? setAsked(name) : act(name)), name === 'power-button' ? '' : 'danger',
  ]);
  return html`<span class="actions"><${Menu} label="Power" icon="power" items=${items} /></span>
    ${asked ? html`<${Dialog} title=${`${ACTIONS[asked][0]}: ${title(vm)}?`} onClose=${() => setAsked(null)}>
      <p>${ACTIONS[asked][1]}</p>
      <div class="buttons">
        <button type="button" autofocus onClick=${() => setAsked(null)}>Cancel</button>
        <button type="button" class="primary danger" onClick=${() => { setAsked(null); act(asked); }}>${ACTIONS[asked][0]}</button>
      </div></${Dialog}>` : null}`;
}
