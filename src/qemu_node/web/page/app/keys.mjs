// Keys that a browser or a phone cannot send by itself: pure. Keysyms of X (keysymdef.h), and the names
// of places on a keyboard (KeyboardEvent.code).

const F = Array.from({ length: 12 }, (_, n) => [`F${n + 1}`, 0xffbe + n]);

export const KEYS = {
  ctrl: [0xffe3, 'ControlLeft'],
  alt: [0xffe9, 'AltLeft'],
  shift: [0xffe1, 'ShiftLeft'],
  win: [0xffeb, 'MetaLeft'],
  delete: [0xffff, 'Delete'],
  backspace: [0xff08, 'Backspace'],
  tab: [0xff09, 'Tab'],
  esc: [0xff1b, 'Escape'],
  enter: [0xff0d, 'Enter'],
  print: [0xff61, 'PrintScreen'],
  sysrq: [0xff15, 'PrintScreen'],
  menu: [0xff67, 'ContextMenu'],
  left: [0xff51, 'ArrowLeft'],
  up: [0xff52, 'ArrowUp'],
  right: [0xff53, 'ArrowRight'],
  down: [0xff54, 'ArrowDown'],
  r: [0x72, 'KeyR'],
  l: [0x6c, 'KeyL'],
  ...Object.fromEntries(F.map(([name, keysym]) => [name.toLowerCase(), [keysym, name]])),
};

/** What is offered: the words, and the keys that go down in this order. */
export const COMBINATIONS = [
  ['Ctrl + Alt + Del', ['ctrl', 'alt', 'delete']],
  ['Ctrl + Alt + Backspace', ['ctrl', 'alt', 'backspace']],
  ['Alt + Tab', ['alt', 'tab']],
  ['Alt + F4', ['alt', 'f4']],
  ['Ctrl + Esc', ['ctrl', 'esc']],
  ['Win', ['win']],
  ['Win + R', ['win', 'r']],
  ['Win + L', ['win', 'l']],
  ['Esc', ['esc']],
  ['Tab', ['tab']],
  ['PrintScreen', ['print']],
  ['Alt + PrintScreen (SysRq)', ['alt', 'sysrq']],
  ['Menu', ['menu']],
  ...F.map(([name]) => [`Ctrl + Alt + ${name}`, ['ctrl', 'alt', name.toLowerCase()]]),
];

/** Every key that holds others in another meaning while it is down. */
export const MODIFIERS = [
  [0xffe1, 'ShiftLeft'], [0xffe2, 'ShiftRight'], [0xffe3, 'ControlLeft'], [0xffe4, 'ControlRight'],
  [0xffe9, 'AltLeft'], [0xffea, 'AltRight'], [0xfe03, 'AltRight'], [0xffeb, 'MetaLeft'], [0xffec, 'MetaRight'],
];

/** Return the strokes of a combination: `[keysym, code, isDown]`, down in order, up in reverse. */
export function strokes(names) {
  const keys = names.map((name) => KEYS[name]);
  return [...keys.map((key) => [...key, true]), ...keys.reverse().map((key) => [...key, false])];
}
