// The graphical console with its tools.
import { html, signal, useEffect, useRef, useSignal, useState } from './html.mjs';
import { API, vmPath } from './api.mjs';
import { FullScreen } from './fullscreen.mjs';
import { Icon } from './icons.mjs';
import { COMBINATIONS } from './keys.mjs';
import { Menu } from './menu.mjs';
import { PasteDialog } from './paste.mjs';
import { ScreenConnection } from './screen.mjs';
import { changeOf, FILL, refill } from './phonetext.mjs';
import { heldAfter, STICKY, TouchKeys } from './touchkeys.mjs';
import { Veil } from './veil.mjs';

const NOTHING = new Set();
const NONE = signal({ phase: 'connecting', words: '' });

export default function ScreenView({ vm, may }) {
  const whole = useRef(null);
  const element = useRef(null);
  const tools = useRef(null);
  const phone = useRef(null);
  const [isViewOnly, setViewOnly] = useState(!may('control'));
  const [isScaled, setScaled] = useState(true);
  const [isPasting, setPasting] = useState(false);
  const [held, setHeld] = useState(NOTHING);
  const [connection, setConnection] = useState(null);
  const status = useSignal(connection?.status ?? NONE);
  const mode = isViewOnly ? 'view' : 'control';
  const isOver = Boolean(vm.end);
  useEffect(() => {
    if (isOver) return undefined;
    const made = new ScreenConnection({ vmId: vm.vm_id, mode, element: element.current, onLeave: () => tools.current?.querySelector('button')?.focus() });
    setConnection(made);
    made.open();
    return () => { made.close(); setConnection(null); };
  }, [vm.vm_id, mode, isOver]);
  useEffect(() => { connection?.setScaled(isScaled); }, [connection, isScaled]);
  // The VM runs again: a restart, or the daemon is back.
  useEffect(() => { if (connection && ['again', 'ended'].includes(status.phase)) connection.retry(); }, [vm.state, vm.created_at]);
  function onPhoneInput(event) {
    // What a phone's keyboard composes comes whole at its end.
    if (event.isComposing) return;
    const { deleted, typed } = changeOf(event.currentTarget.value);
    for (let n = 0; n < deleted; n += 1) connection?.press(['backspace']);
    for (const character of typed) {
      if (character === '\n') connection?.press(['enter']);
      else connection?.type(character);
    }
    refill(event.currentTarget);
    letGo();
  }
  function letGo() {
    for (const name of held) connection?.hold(name, false);
    setHeld(NOTHING);
  }
  function onTouchKey(name) {
    const next = heldAfter(held, name);
    if (STICKY.includes(name)) {
      connection.hold(name, next.has(name));
      setHeld(next);
    } else {
      connection.press([name]);
      letGo();
    }
  }
  const isOpen = status.phase === 'open' && !isOver;
  return html`<div class="whole" ref=${whole}>
    <div class="tools" ref=${tools} role="toolbar" aria-label="Screen">
      ${may('control') ? html`
        <${Menu} label="Keys" icon="keyboard" disabled=${!isOpen || isViewOnly}
          items=${COMBINATIONS.map(([name, keys]) => [name, () => { connection.press(keys); connection.focus(); }])} />
        <button type="button" disabled=${!isOpen || isViewOnly} onClick=${() => { connection.press(['ctrl', 'alt', 'delete']); connection.focus(); }}>Ctrl+Alt+Del</button>
        <button type="button" disabled=${isOver || isViewOnly} onClick=${() => { connection?.release(); setPasting(true); }}><${Icon} name="paste" />Paste as keys</button>
        <button type="button" aria-pressed=${isViewOnly} onClick=${() => setViewOnly(!isViewOnly)}><${Icon} name="eye" />View only</button>` : null}
      <a class="button" href=${`${API}${vmPath(vm.vm_id, '/screenshot')}`} download=${`${vm.vm_id}.png`} aria-disabled=${isOver}><${Icon} name="camera" />Screenshot</a>
      <button type="button" aria-pressed=${isScaled} onClick=${() => setScaled(!isScaled)}>Scale</button>
      <${FullScreen} target=${whole} wantsKeys=${!isViewOnly} disabled=${isOver} />
    </div>
    ${may('control') && !isViewOnly && !isOver ? html`<${TouchKeys} held=${held} press=${onTouchKey} type=${() => phone.current.focus()} disabled=${!isOpen} />` : null}
    <div class="frame of-screen" role="region" aria-label="Screen of the VM">
      <div class="screen" ref=${element}></div>
      <textarea class="unseen" ref=${phone} aria-label="Type into the guest" autocapitalize="off" autocomplete="off" defaultValue=${FILL} onFocus=${(event) => refill(event.currentTarget)} autocorrect="off" spellcheck="false" tabindex="-1" onInput=${onPhoneInput} onCompositionEnd=${onPhoneInput}></textarea>
      <${Veil} vm=${vm} status=${status} onRetry=${() => connection?.retry()} />
    </div>
    ${isOver ? null : html`<p class="hint">${may('control') && !isViewOnly ? 'Ctrl+Alt+Shift leaves the screen' : 'view only'}</p>`}
    ${isPasting ? html`<${PasteDialog} vm=${vm} onClose=${() => { setPasting(false); connection?.focus(); }} />` : null}</div>`;
}
