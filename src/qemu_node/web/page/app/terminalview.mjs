// The serial terminal with its tools.
import { html, signal, useEffect, useRef, useSignal, useState } from './html.mjs';
import { Dialog, say } from './dialog.mjs';
import { Ending } from './ending.mjs';
import { FullScreen } from './fullscreen.mjs';
import { Icon } from './icons.mjs';
import { loadStyle, TerminalConnection } from './terminal.mjs';
import { TouchKeys } from './touchkeys.mjs';
import { Veil } from './veil.mjs';

await loadStyle();

const NONE = signal({ phase: 'connecting', words: '' });
const NOBODY = signal({ you: 0, viewers: [], typing: null });
const OPEN = signal('open');
const PORTS = { opening: 'The port is being opened …', taken: 'Somebody else has the port: a `vm console` without the daemon.', lost: 'QEMU does not answer; it is tried again.' };
const NOTHING = signal(new Set());
const NO_SIZE = signal({ cols: 80, rows: 24 });

function Find({ connection }) {
  const [text, setText] = useState('');
  const options = { decorations: undefined, incremental: false };
  const find = (isBack) => (isBack ? connection?.finder.findPrevious(text, options) : connection?.finder.findNext(text, options));
  return html`<form class="find" role="search" onSubmit=${(event) => { event.preventDefault(); find(true); }}>
    <label class="unseen" for="find">Search the terminal</label>
    <input id="find" type="search" placeholder="Search" value=${text} spellcheck="false" aria-keyshortcuts="Control+Shift+F" onKeyDown=${(event) => { if (event.key === 'Escape') connection?.terminal.focus(); }} onInput=${(event) => setText(event.currentTarget.value)} />
    <button type="button" aria-label="Earlier" title="Earlier" disabled=${!text} onClick=${() => find(true)}><${Icon} name="up" /></button>
    <button type="button" aria-label="Later" title="Later" disabled=${!text} onClick=${() => find(false)}><${Icon} name="down" /></button>
  </form>`;
}

function PasteLines({ text, onPaste, onClose }) {
  const lines = text.split(/\r\n|\r|\n/).length;
  return html`<${Dialog} title=${`Paste ${lines} lines?`} onClose=${onClose}>
    <p>A shell runs each line as soon as it arrives.</p>
    <textarea rows="8" readonly value=${text}></textarea>
    <div class="buttons"><button type="button" onClick=${onClose}>Cancel</button><button type="button" class="primary" autofocus onClick=${onPaste}>Paste</button></div>
  </${Dialog}>`;
}

export default function TerminalView({ vm, may }) {
  const element = useRef(null);
  const whole = useRef(null);
  const tools = useRef(null);
  const [isViewOnly, setViewOnly] = useState(!may('control'));
  const [connection, setConnection] = useState(null);
  const [pasted, setPasted] = useState(null);
  const status = useSignal(connection?.status ?? NONE);
  const size = useSignal(connection?.size ?? NO_SIZE);
  const people = useSignal(connection?.people ?? NOBODY);
  const port = useSignal(connection?.port ?? OPEN);
  const held = useSignal(connection?.held ?? NOTHING);
  const others = people.viewers.filter((viewer) => viewer.id !== people.you);
  const typing = others.find((viewer) => viewer.id === people.typing);
  const mode = isViewOnly ? 'view' : 'control';
  const isOver = Boolean(vm.end);
  useEffect(() => {
    const made = new TerminalConnection({
      vmId: vm.vm_id, mode, element: element.current, askToPaste: setPasted, onLeave: () => tools.current?.querySelector('button, input')?.focus(),
      onFind: () => tools.current?.querySelector('#find')?.focus(),
      onDropped: (count) => say(`The guest did not take ${count} bytes of what you typed.`, true),
    });
    setConnection(made);
    if (isOver) made.showEnd();
    else made.open();
    made.terminal.focus();
    return () => { made.close(); setConnection(null); };
    // The end of the VM leaves its last words where they are.
  }, [vm.vm_id, mode]);
  useEffect(() => { if (connection && !isOver && status.phase !== 'stopped') connection.retry(); }, [vm.state, vm.created_at]);
  const canType = status.phase === 'open' && !isViewOnly && !isOver;
  return html`<div class="whole" ref=${whole}>
    <div class="tools" ref=${tools} role="toolbar" aria-label="Terminal">
      ${may('control') && !isOver ? html`<button type="button" aria-pressed=${isViewOnly} onClick=${() => setViewOnly(!isViewOnly)}><${Icon} name="eye" />View only</button>
      <button type="button" disabled=${!canType} title="types a command for the guest's shell" onClick=${() => connection.tellSize()}>Tell the guest ${size.cols} × ${size.rows}</button>` : null}
      <${FullScreen} target=${whole} wantsKeys=${canType} />
      <${Find} connection=${connection} />
      <span class="spacer"></span>
      ${others.length ? html`<span class="dim" role="status">also here: ${others.map((viewer) => viewer.name).join(', ')}${typing ? html` · ${typing.name} has typed` : null}</span>` : null}
      ${PORTS[port] && status.phase === 'open' ? html`<span class="dim" role="status">${PORTS[port]}</span>` : null}
    </div>
    ${isOver ? html`<${Ending} vm=${vm} />` : null}
    ${may('control') && !isViewOnly && !isOver ? html`<${TouchKeys} held=${held} press=${(name) => connection.press(name)} type=${() => connection.terminal.focus()} disabled=${!canType} />` : null}
    <div class="frame" role="region" aria-label="Serial terminal of the VM">
      <div class="tty" ref=${element}></div>
      ${isOver ? null : html`<${Veil} vm=${vm} status=${status} onRetry=${() => connection?.retry()} />`}
    </div>
    <p class="hint">${isOver ? 'its last words' : canType ? 'Ctrl+Alt+Shift leaves the terminal' : 'view only'}</p>
    ${pasted === null ? null : html`<${PasteLines} text=${pasted} onClose=${() => setPasted(null)} onPaste=${() => { connection.paste(pasted); setPasted(null); }} />`}</div>`;
}
