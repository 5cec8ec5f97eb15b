// The graphical console with its tools.
import { html, useEffect, useRef, useSignal, useState } from './html.mjs';
import { API, vmPath } from './api.mjs';
import { Icon } from './icons.mjs';
import { COMBINATIONS } from './keys.mjs';
import { Menu } from './menu.mjs';
import { PasteDialog } from './paste.mjs';
import { ScreenConnection } from './screen.mjs';
import { signal } from './html.mjs';
import { Veil } from './veil.mjs';

const NONE = signal({ phase: 'connecting', words: '' });

export default function ScreenView({ vm, may }) {
  const frame = useRef(null);
  const element = useRef(null);
  const tools = useRef(null);
  const phone = useRef(null);
  const [isViewOnly, setViewOnly] = useState(!may('control'));
  const [isScaled, setScaled] = useState(true);
  const [isPasting, setPasting] = useState(false);
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
    const typed = event.data ?? '';
    if (event.inputType === 'deleteContentBackward') connection?.press(['backspace']);
    else if (event.inputType === 'insertLineBreak') connection?.press(['enter']);
    for (const character of typed) connection?.type(character.codePointAt(0) < 256 ? character.codePointAt(0) : 0x01000000 + character.codePointAt(0));
    event.currentTarget.value = '';
  }
  const isOpen = status.phase === 'open' && !isOver;
  return html`
    <div class="tools" ref=${tools} role="toolbar" aria-label="Screen">
      ${may('control') ? html`
        <${Menu} label="Keys" icon="keyboard" disabled=${!isOpen || isViewOnly}
          items=${COMBINATIONS.map(([name, keys]) => [name, () => { connection.press(keys); connection.focus(); }])} />
        <button type="button" disabled=${!isOpen || isViewOnly} onClick=${() => { connection.press(['ctrl', 'alt', 'delete']); connection.focus(); }}>Ctrl+Alt+Del</button>
        <button type="button" disabled=${isOver || isViewOnly} onClick=${() => { connection?.release(); setPasting(true); }}><${Icon} name="paste" />Paste as keys</button>
        <button type="button" aria-pressed=${isViewOnly} onClick=${() => setViewOnly(!isViewOnly)}><${Icon} name="eye" />View only</button>
        <button type="button" class="for-touch" disabled=${!isOpen || isViewOnly} onClick=${() => phone.current.focus()}><${Icon} name="keyboard" />Type</button>` : null}
      <a class="button" href=${`${API}${vmPath(vm.vm_id, '/screenshot')}`} download=${`${vm.vm_id}.png`} aria-disabled=${isOver}><${Icon} name="camera" />Screenshot</a>
      <button type="button" aria-pressed=${isScaled} onClick=${() => setScaled(!isScaled)}>Scale</button>
      <button type="button" disabled=${isOver} onClick=${() => frame.current.requestFullscreen?.()}><${Icon} name="full" />Full screen</button>
      <span class="spacer"></span>
      <span class="dim">${may('control') && !isViewOnly ? 'Ctrl+Alt+Shift leaves the screen' : 'view only'}</span>
    </div>
    <div class="frame" ref=${frame} role="region" aria-label="Screen of the VM">
      <div class="screen" ref=${element}></div>
      <textarea class="unseen" ref=${phone} aria-label="Type into the guest" autocapitalize="off" autocomplete="off" tabindex="-1" onInput=${onPhoneInput}></textarea>
      <${Veil} vm=${vm} status=${status} onRetry=${() => connection?.retry()} />
    </div>
    ${isPasting ? html`<${PasteDialog} vm=${vm} onClose=${() => { setPasting(false); connection?.focus(); }} />` : null}`;
}
