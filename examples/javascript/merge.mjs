// Merge two recordings without Python: node merge.mjs a.normprobe b.normprobe > merged.json
// docs/file-format.md describes the file. npm install hyparquet hyparquet-compressors
import { readFileSync } from 'node:fs'
import { parquetReadObjects } from 'hyparquet'
import { compressors } from 'hyparquet-compressors'

/** The entries of a zip file whose entries are stored: their bytes by name. */
function entries(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  let end = bytes.length - 22
  while (view.getUint32(end, true) !== 0x06054b50) end--
  const found = {}
  for (let at = view.getUint32(end + 16, true), n = view.getUint16(end + 10, true); n > 0; n--) {
    const [name, extra, comment] = [28, 30, 32].map(offset => view.getUint16(at + offset, true))
    const local = view.getUint32(at + 42, true)
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true)
    found[bytes.toString('utf8', at + 46, at + 46 + name)] = bytes.subarray(start, start + view.getUint32(at + 24, true))
    at += 46 + name + extra + comment
  }
  return found
}

/** Metadata, and the moments of each feature by layer and site. */
async function read(path) {
  const files = entries(readFileSync(path))
  const { format, version, meta } = JSON.parse(files['recording.json'])
  if (format !== 'normprobe recording' || version !== 1) throw new Error(`${path} is no recording of format 1`)
  const table = name => parquetReadObjects({ file: new Uint8Array(files[`${name}.parquet`]).buffer, compressors })
  const [sites, features] = [await table('sites'), await table('feature_moments')]
  const places = new Map()
  let first = 0
  for (const { layer, site, n_features } of sites) { // the features of all places follow one another
    places.set(JSON.stringify([layer, site]), features.slice(first, first += Number(n_features)).map(numbers))
  }
  return { meta, places }
}

const numbers = row => Object.fromEntries(Object.entries(row).map(([name, value]) => [name, value === null ? NaN : Number(value)]))

/** Moments of the union of two sets: Chan, Golub, LeVeque 1979. */
function merge(a, b) {
  const share = b.count / Math.max(a.count + b.count, 1), delta = b.mean - a.mean
  const sum = name => a[name] + b[name]
  return {
    count: sum('count'), nonfinite: sum('nonfinite'), zeros: sum('zeros'), abs_sum: sum('abs_sum'),
    mean: share > 0.5 ? b.mean - delta * (1 - share) : a.mean + delta * share,
    m2: a.m2 + b.m2 + delta * (a.count * share) * delta,
    min: Math.min(a.min, b.min), max: Math.max(a.max, b.max),
  }
}

const [a, b] = await Promise.all(process.argv.slice(2, 4).map(read))
if (a.meta.model !== b.meta.model) throw new Error(`recordings of ${a.meta.model} and ${b.meta.model}`)
if (a.meta.parts.some(part => b.meta.parts.includes(part))) throw new Error('a part would count twice')
const whole = [...new Set([...a.places.keys(), ...b.places.keys()])].map(key => {
  const [one, other] = [a.places.get(key), b.places.get(key)]
  return { key: JSON.parse(key), features: one && other ? one.map((x, at) => merge(x, other[at])) : one ?? other }
})
console.log(JSON.stringify(whole, (_, value) => Number.isFinite(value) || typeof value !== 'number' ? value : String(value)))
