// A VM's serial terminal. Owns xterm.js and what may reach the guest from it; does not own the socket.
//
// xterm answers the queries of whatever is written to it. So nothing that it says goes to the guest
// before the replay of earlier output has been drawn, and nothing at all from a viewer.
import { FitAddon } from '../vendor/xterm-fit/lib/addon-fit.mjs';
import { SearchAddon } from '../vendor/xterm-search/lib/addon-search.mjs';
import { Terminal } from '../vendor/xterm/lib/xterm.mjs';
import { signal } from './html.mjs';
import { send, vmPath } from './api.mjs';
import { plain } from './plain.mjs';
import { Connection } from './socket.mjs';
import { heldAfter } from './touchkeys.mjs';
import { Utf8Pieces } from './utf8.mjs';

const STYLE = new URL('../vendor/xterm/css/xterm.css', import.meta.url).href;
const SEED_LINES = 1000;
const NOBODY = { you: 0, viewers: [], typing: null };
const PIECE_BYTES = 65_536;
// xterm throws at 48 MB that wait to be drawn; the socket is slowed long before.
const WAITING_MAX_BYTES = 8 << 20;

// What a key sends, and what it sends to a program that has asked for it (DECCKM).
const TOUCHED = {
  esc: ['\x1b'], tab: ['\t'], up: ['\x1b[A', '\x1bOA'], down: ['\x1b[B', '\x1bOB'], right: ['\x1b[C', '\x1bOC'], left: ['\x1b[D', '\x1bOD'],
};

const THEME = {
  background: '#0b1013', foreground: '#d7dfe5', cursor: '#2dd4bf', selectionBackground: '#2dd4bf55',
  black: '#1d242a', red: '#f87171', green: '#4ade80', yellow: '#fbbf24', blue: '#60a5fa', magenta: '#c084fc', cyan: '#22d3ee', white: '#d7dfe5',
  brightBlack: '#7c8994', brightRed: '#fca5a5', brightGreen: '#86efac', brightYellow: '#fde68a', brightBlue: '#93c5fd', brightMagenta: '#d8b4fe', brightCyan: '#67e8f9', brightWhite: '#ffffff',
};

/** Have the page use xterm's styles: without them it shows what it measures with. */
export function loadStyle() {
  if (document.querySelector(`link[href="${STYLE}"]`)) return Promise.resolve();
  const link = Object.assign(document.createElement('link'), { rel: 'stylesheet', href: STYLE });
  return new Promise((done) => {
    link.onload = done;
    link.onerror = done;
    document.head.append(link);
  });
}

export class TerminalConnection extends Connection {
  constructor({ vmId, mode, element, askToPaste, onLeave, onFind, onDropped }) {
    super({ vmId, kind: 'serial', mode, attach: (socket) => this.begin(socket) });
    this.askToPaste = askToPaste;
    this.onFind = onFind;
    this.onDropped = onDropped;
    this.people = signal(NOBODY);
    this.port = signal('open');
    this.size = signal({ cols: 80, rows: 24 });
    this.isLive = false;
    this.waiting = 0;
    this.pieces = new Utf8Pieces();
    this.encoder = new TextEncoder();
    this.terminal = new Terminal({
      cursorBlink: true, scrollback: 10_000, fontSize: 13, fontFamily: 'ui-monospace, "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace',
      theme: THEME, disableStdin: mode === 'view', screenReaderMode: false, allowProposedApi: false,
      linkHandler: { activate: (_event, uri) => { if (/^https?:\/\//.test(uri)) open(uri, '_blank', 'noopener,noreferrer'); }, allowNonHttpProtocols: false },
    });
    this.fit = new FitAddon();
    this.finder = new SearchAddon();
    this.terminal.loadAddon(this.fit);
    this.terminal.loadAddon(this.finder);
    this.terminal.open(element);
    this.held = signal(new Set());
    this.terminal.onData((text) => this.say(this.encoder.encode(this.withHeld(text))));
    this.terminal.onBinary((text) => this.say(Uint8Array.from(text, (character) => character.charCodeAt(0))));
    this.terminal.onResize(({ cols, rows }) => this.resized(cols, rows));
    this.terminal.attachCustomKeyEventHandler((event) => this.onKey(event, onLeave));
    // The element outlives this connection: another mode has another one on it.
    this.listeners = new AbortController();
    element.addEventListener('paste', (event) => this.onPaste(event), { capture: true, signal: this.listeners.signal });
    this.watcher = new ResizeObserver(() => { if (element.clientWidth) this.fit.fit(); });
    this.watcher.observe(element);
  }

  /** Draw the last words of a VM that has ended, from its log. */
  async showEnd() {
    let text;
    try {
      text = await (await send('GET', vmPath(this.vmId, `/log?lines=${SEED_LINES}`))).text();
      text ||= '\x1b[2mThere is no log of it any more, or the guest has printed nothing.\x1b[0m\n';
    } catch (error) {
      text = `\x1b[2mIts log cannot be read: ${plain(error.message)}\x1b[0m\n`;
    }
    // Without a cursor: nobody can type here.
    if (!this.isOver) this.terminal.write(`${text.replace(/\r?\n/g, '\r\n')}\x1b[?25l`);
  }

  begin(socket) {
    // The console sends first what was printed earlier, and then says that what follows is live.
    this.pieces = new Utf8Pieces();
    this.terminal.reset();
    this.opened();
    socket.addEventListener('message', (event) => {
      if (typeof event.data === 'string') this.onControl(event.data, socket);
      else this.draw(new Uint8Array(event.data));
    });
    return () => {
      this.isLive = false;
      this.people.value = NOBODY;
    };
  }

  draw(bytes) {
    for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
      const piece = this.pieces.feed(bytes.subarray(at, at + PIECE_BYTES));
      this.waiting += piece.length;
      this.terminal.write(piece, () => { this.waiting -= piece.length; });
    }
    // A guest that prints faster than is drawn: the console begins again with its last words.
    if (this.waiting > WAITING_MAX_BYTES) this.socket?.close();
  }

  onControl(text, socket) {
    let control = {};
    try {
      control = JSON.parse(text);
    } catch {
      return;
    }
    if (control.type === 'live') {
      // Once all before it is drawn, and answered to nobody.
      this.terminal.write('', () => {
        this.isLive = this.socket === socket;
        this.fit.fit();
      });
    } else if (control.type === 'viewers') {
      this.people.value = control;
    } else if (control.type === 'port') {
      this.port.value = control.state;
    } else if (control.type === 'dropped') {
      this.onDropped(control.bytes);
    }
  }

  say(bytes) {
    if (this.isLive && this.mode === 'control' && this.socket?.readyState === WebSocket.OPEN) this.socket.send(bytes);
  }

  resized(cols, rows) {
    this.size.value = { cols, rows };
  }

  onKey(event, onLeave) {
    if (event.type === 'keydown' && event.ctrlKey && event.altKey && event.shiftKey && ['Control', 'Alt', 'Shift'].includes(event.key)) {
      onLeave();
      return false;
    }
    if (event.ctrlKey && event.shiftKey && event.code === 'KeyF') {
      // Not the browser's search, which sees what is drawn alone.
      if (event.type === 'keydown') this.onFind();
      event.preventDefault();
      return false;
    }
    return true;
  }

  /** Several lines would be run one by one: somebody is asked first. */
  onPaste(event) {
    const text = event.clipboardData?.getData('text/plain') ?? '';
    if (!/[\r\n]./.test(text)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    this.askToPaste(text);
  }

  paste(text) {
    this.terminal.paste(text);
    this.terminal.focus();
  }

  /** A serial port has no size: the shell of the guest is told by a command. */
  tellSize() {
    const { cols, rows } = this.size.peek();
    this.say(this.encoder.encode(`stty rows ${rows} cols ${cols}\r`));
    this.terminal.focus();
  }

  /** Press a key that a phone's keyboard lacks; `held` says which of Ctrl and Alt are down. */
  press(name) {
    this.held.value = heldAfter(this.held.peek(), name);
    const [text, inApplication] = TOUCHED[name] ?? [];
    if (text) this.say(this.encoder.encode(this.terminal.modes.applicationCursorKeysMode ? inApplication ?? text : text));
  }

  /** Return what is typed, with the keys of `press` that are down; they are up then. */
  withHeld(text) {
    const held = this.held.peek();
    if (!held.size || !this.isLive) return text;
    this.held.value = new Set();
    const control = held.has('ctrl') && /^[@-_a-z ]$/.test(text) ? String.fromCharCode(text.toUpperCase().charCodeAt(0) & 0x1f) : text;
    return held.has('alt') ? `\x1b${control}` : control;
  }

  close() {
    super.close();
    this.listeners.abort();
    this.watcher.disconnect();
    this.terminal.dispose();
  }
}
