// UTF-8 in pieces: pure. xterm.js drops a character whose bytes come in two writes (xterm.js#6003), so an
// incomplete end is kept back until the rest is there.

/** Return how many bytes at the end of `bytes` are the beginning of a character; 0 to 3. */
export function incompleteTail(bytes) {
  for (let back = 1; back <= Math.min(3, bytes.length); back += 1) {
    const byte = bytes[bytes.length - back];
    if ((byte & 0xc0) === 0x80) continue;
    const length = byte >= 0xf0 && byte < 0xf8 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc2 ? 2 : 1;
    return byte < 0xf8 && length > back ? back : 0;
  }
  return 0;
}

/** Returns whole characters of what it is fed. */
export class Utf8Pieces {
  #rest = new Uint8Array(0);

  feed(piece) {
    const all = new Uint8Array(this.#rest.length + piece.length);
    all.set(this.#rest);
    all.set(piece, this.#rest.length);
    const whole = all.length - incompleteTail(all);
    this.#rest = all.slice(whole);
    return all.subarray(0, whole);
  }
}
