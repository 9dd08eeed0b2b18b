// SPDX-License-Identifier: Apache-2.0
//
// attnd from Node, without a client library: stubs made from the .proto files at run time.
//
//   npm install && node attend.mjs 127.0.0.1:7450
//
// Five tokens of a prompt, then one more, in one layer; each output compared with attention computed
// here; then two errors and what they say.
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import {fileURLToPath} from 'node:url';
import {promisify} from 'node:util';

const protos = fileURLToPath(new URL('../../../proto', import.meta.url));
const definition = loader.loadSync(
    ['attention', 'cache', 'rpc_status', 'sequence', 'session'].map((n) => `attnd/v1/${n}.proto`),
    // 64-bit numbers as strings: an Id is 64 random bits, and a JavaScript number holds 53.
    {includeDirs: [protos], keepCase: true, longs: String, enums: String, defaults: true});
const {attnd: {v1}} = grpc.loadPackageDefinition(definition);

const address = process.argv[2] ?? '127.0.0.1:7450';
// The default limit of grpc-js for a received message is 4 MiB: long prompts have larger outputs.
const options = {'grpc.max_receive_message_length': 512 << 20};
// {method(request) -> promise of the response} for each method of the services.
const attnd = {};
for (const Service of [v1.AttentionService, v1.CacheService, v1.SequenceService, v1.SessionService]) {
  const stub = new Service(address, grpc.credentials.createInsecure(), options);
  for (const name of Object.keys(Service.service)) attnd[name] = promisify(stub[name]).bind(stub);
}

const [heads, kvHeads, dim] = [4, 2, 16];
const draw = (n) => Float32Array.from({length: n}, () => Math.random() * 4 - 2);

// Tensors travel as raw little-endian bytes behind one another, each with its offset.
function pack(tensors) {
  const fields = {};
  const parts = [];
  let offset_bytes = 0;
  for (const [name, {shape, data}] of Object.entries(tensors)) {
    fields[name] = {dtype: 'DTYPE_F32', shape, offset_bytes};
    parts.push(Buffer.from(data.buffer, data.byteOffset, data.byteLength));
    offset_bytes += data.byteLength;
  }
  return {fields, tensor_data: Buffer.concat(parts)};
}

// The tensor of a response. Copied, since a Float32Array must start at a multiple of 4 bytes.
function unpack({shape, offset_bytes}, tensor_data) {
  const length = shape.reduce((product, size) => product * Number(size), 1);
  const begin = Number(offset_bytes);
  return new Float32Array(Uint8Array.from(tensor_data.subarray(begin, begin + 4 * length)).buffer);
}

// Causal attention of rows at `start` over all keys so far, with plain loops.
function naive(q, k, v, start) {
  const out = new Float32Array(q.length);
  for (let row = 0; row < q.length / (heads * dim); ++row) {
    for (let head = 0; head < heads; ++head) {
      const query = (row * heads + head) * dim;
      const key = (j) => (j * kvHeads + Math.floor(head / (heads / kvHeads))) * dim;
      const weights = [];
      for (let j = 0; j <= start + row; ++j) {
        let score = 0;
        for (let i = 0; i < dim; ++i) score += q[query + i] * k[key(j) + i];
        weights.push(Math.exp(score / Math.sqrt(dim)));
      }
      const sum = weights.reduce((a, b) => a + b);
      for (let i = 0; i < dim; ++i) {
        out[query + i] = weights.reduce((mean, w, j) => mean + w / sum * v[key(j) + i], 0);
      }
    }
  }
  return out;
}

// What a failed call says beyond its code: a google.rpc.Status in a trailer, with an ErrorDetail.
function errorDetail(error) {
  const [bytes] = error.metadata?.get('grpc-status-details-bin') ?? [];
  if (bytes === undefined) return undefined;
  const [any] = definition['attnd.v1.RpcStatus'].deserialize(bytes).details;
  return definition['attnd.v1.ErrorDetail'].deserialize(any.value);
}

const geometry = {
  num_layers: 1, num_query_heads: heads, num_kv_heads: kvHeads, head_dim_k: dim, kv_dtype: 'DTYPE_F32',
};
const {cache} = await attnd.OpenCache({name: 'node-example', geometry});
// Keep `token` where a crash does not reach it: ResumeSession takes the sequences up with it.
const {session, epoch, token} = await attnd.OpenSession({label: 'node-example'});
const {sequence} = await attnd.CreateSequence({session, epoch, cache});
console.log(`session open, its token has ${token.length} bytes`);

const [keys, values] = [[], []];  // all so far, for the comparison
async function attend(start, rows, step) {
  const q = draw(rows * heads * dim), k = draw(rows * kvHeads * dim), v = draw(rows * kvHeads * dim);
  const {fields, tensor_data} = pack({
    q: {shape: [rows, heads, dim], data: q},
    k: {shape: [rows, kvHeads, dim], data: k},
    v: {shape: [rows, kvHeads, dim], data: v},
  });
  const item = {sequence, layer: 0, step, start_position: start, options: {causal: true}, ...fields};
  const response = await attnd.Attend({session, epoch, items: [item], tensor_data});
  const [result] = response.results;
  // Items succeed or fail one by one: the call went through, this item may not have.
  if (result.status?.code) return console.log('item refused:', result.status);
  keys.push(...k);
  values.push(...v);
  const out = unpack(result.out, response.tensor_data), expected = naive(q, keys, values, start);
  const worst = out.reduce((max, x, i) => Math.max(max, Math.abs(x - expected[i])), 0);
  console.log(`${rows} rows at ${start}: length ${result.layer_length}, ` +
              `largest difference ${worst.toExponential(1)}, ${worst < 1e-5 ? 'right' : 'WRONG'}`);
  if (!(worst < 1e-5)) process.exitCode = 1;
}

await attend(0, 5, 1);  // the prompt
await attend(5, 1, 2);  // one token
await attend(9, 1, 3);  // a hole: tokens 6 to 8 were never written

await attnd.CloseSession({session, epoch});
try {
  await attnd.CreateSequence({session, epoch, cache});
} catch (error) {
  console.log(`call refused: ${grpc.status[error.code]}: ${error.details}`, errorDetail(error));
}
