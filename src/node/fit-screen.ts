/** Lays a page out for a terminal: long lines go on below, between words, and no more is shown than there are rows. */

/** Below this a label's column would be half of the line. */
const NARROW = 60;
/** Where the text behind a label begins (format-status.ts). */
const LABEL_INDENT = 13;

/** Colours: they take no columns. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are control sequences
const COLOUR = /\x1b\[[0-9;]*m/g;

function widthOf(text: string): number {
  return text.replace(COLOUR, '').length;
}

/** Index behind the first `columns` characters that show. */
function indexBehind(text: string, columns: number): number {
  let index = columns;
  for (const { 0: colour, index: at } of text.matchAll(COLOUR)) if (at <= index) index += colour.length;
  return index;
}

/**
 * @param pages the same, the longest first: the first that fits is taken
 * @returns lines of at most `columns`, and at most `rows` of them; where none fits the last one says how many are left out
 */
export function fitScreen(pages: readonly string[], columns: number, rows: number): string[] {
  const laidOut = pages.map((page) => layOut(page, Math.max(1, columns)));
  const lines = laidOut.find(({ length }) => length <= rows) ?? laidOut.at(-1)!;
  if (lines.length <= rows) return lines;
  const more = lines.length - rows + 1;
  return [...lines.slice(0, rows - 1), `… ${more} more lines`.slice(0, columns)];
}

function layOut(page: string, columns: number): string[] {
  return page
    .trimEnd()
    .split('\n')
    .flatMap((line) => breakLine(line, columns));
}

function breakLine(line: string, columns: number): string[] {
  if (widthOf(line) <= columns) return [line];
  const isLabelled = line.startsWith('  ');
  const wanted = !isLabelled ? 2 : columns < NARROW ? 4 : LABEL_INDENT;
  const indent = ' '.repeat(Math.min(wanted, columns - 1)); // each line takes some of the text
  const lines: string[] = [];
  let text = '';
  for (const word of line.match(/ *[^ ]+/g) ?? []) {
    if (text !== '' && widthOf(text + word) > columns) {
      lines.push(text);
      text = indent + word.trimStart();
    } else text += word;
    while (widthOf(text) > columns) {
      const at = indexBehind(text, columns); // in the middle of a word
      lines.push(text.slice(0, at));
      text = indent + text.slice(at);
    }
  }
  return [...lines, text];
}
