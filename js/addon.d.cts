/** The name of this process's folder in prebuilds/. */
export function platform(): string
/** What binding/binding.c exports. Throws if there is no binary that loads. */
export function load(): unknown
/** Of this package. */
export const version: string
/** The package's folder. */
export const root: string
