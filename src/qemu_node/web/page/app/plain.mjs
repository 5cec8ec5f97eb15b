// Text that others have written, without what a terminal would act on: pure.

// Escape sequences and other controls.
// eslint-disable-next-line no-control-regex
const CONTROLS = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])|[\x00-\x08\x0b-\x1f\x7f]/g;

export function plain(text) {
  return text.replace(CONTROLS, '');
}
