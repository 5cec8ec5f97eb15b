// A VM's graphical console. Owns noVNC's life and what it is told; does not own the socket (socket.mjs).
import RFB from '../vendor/novnc/core/rfb.js';
import { KEYS, MODIFIERS, strokes } from './keys.mjs';
import { Connection } from './socket.mjs';

const HANDSHAKE_MS = 10_000;

export class ScreenConnection extends Connection {
  constructor({ vmId, mode, element, onLeave }) {
    super({ vmId, kind: 'screen', mode, attach: (socket) => this.begin(socket) });
    this.element = element;
    this.onLeave = onLeave;
    this.rfb = null;
    this.isScaled = true;
    this.listeners = new AbortController();
    const options = { signal: this.listeners.signal, capture: true };
    addEventListener('blur', () => this.release(), options);
    addEventListener('pagehide', () => this.release(), options);
    document.addEventListener('visibilitychange', () => { if (document.hidden) this.release(); }, options);
    addEventListener('keydown', (event) => this.beforeKey(event), options);
  }

  /** Begin at once: QEMU's greeting follows the `ok`, and noVNC must not miss it. */
  begin(socket) {
    const rfb = new RFB(this.element, socket, { shared: true });
    this.rfb = rfb;
    rfb.viewOnly = this.mode === 'view';
    rfb.scaleViewport = this.isScaled;
    rfb.clipViewport = !this.isScaled;
    rfb.dragViewport = !this.isScaled;
    rfb.resizeSession = false;
    rfb.focusOnClick = true;
    rfb.showDotCursor = true;
    rfb.background = '#05080a';
    // noVNC tells of no handshake that never ends.
    const limit = setTimeout(() => socket.close(), HANDSHAKE_MS);
    rfb.addEventListener('connect', () => {
      clearTimeout(limit);
      this.opened();
      if (document.activeElement === document.body) this.focus();
    });
    return () => {
      clearTimeout(limit);
      this.rfb = null;
    };
  }

  /** A key that goes down while the page has no focus would stay down: its end goes elsewhere. */
  beforeKey(event) {
    const isOurs = this.element.contains(event.target);
    if (isOurs && !document.hasFocus()) {
      event.stopImmediatePropagation();
      return;
    }
    // The way out for who has only a keyboard: the screen takes Tab and all else.
    if (isOurs && event.ctrlKey && event.altKey && event.shiftKey && ['Control', 'Alt', 'Shift'].includes(event.key)) {
      event.stopImmediatePropagation();
      event.preventDefault();
      this.release();
      this.onLeave();
    }
  }

  /** Let go of all keys that hold others in another meaning. */
  release() {
    if (!this.rfb || this.mode === 'view') return;
    for (const [keysym, code] of MODIFIERS) this.rfb.sendKey(keysym, code, false);
  }

  press(names) {
    for (const [keysym, code, isDown] of strokes(names)) this.rfb?.sendKey(keysym, code, isDown);
  }

  /** Have a key down until it is let go. */
  hold(name, isDown) {
    const [keysym, code] = KEYS[name];
    this.rfb?.sendKey(keysym, code, isDown);
  }

  /** Type a character of a phone's keyboard. */
  type(character) {
    const point = character.codePointAt(0);
    const keysym = point < 256 ? point : 0x01000000 + point;
    this.rfb?.sendKey(keysym, null, true);
    this.rfb?.sendKey(keysym, null, false);
  }

  setScaled(isScaled) {
    this.isScaled = isScaled;
    if (!this.rfb) return;
    this.rfb.scaleViewport = isScaled;
    this.rfb.clipViewport = !isScaled;
    this.rfb.dragViewport = !isScaled;
  }

  focus() {
    this.rfb?.focus({ preventScroll: true });
  }

  close() {
    this.release();
    this.listeners.abort();
    super.close();
  }
}
