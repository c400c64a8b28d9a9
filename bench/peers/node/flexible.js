// `rate-limiter-flexible` on ioredis, a limiter for each counter: nine are its union, which asks Redis nine times at once and is not atomic.
//
// The contract is that of bench/peers/python/runner.py, with one more argument first: whether ioredis gathers what a turn of the event
// loop sends (`true` or `false`). Refusals are remembered in memory, as the library's documentation advises.
'use strict';

const readline = require('readline');
const Redis = require('ioredis');
const { RateLimiterRedis, RateLimiterUnion } = require('rate-limiter-flexible');

const [pipelining, url, scenario, callers] = process.argv.slice(2);
const { counters, identities, fresh } = JSON.parse(scenario);
const concurrency = Number(callers);
const redis = new Redis(url, { enableAutoPipelining: pipelining === 'true' });

const limiters = counters.map(({ unit, limit, seconds }) => new RateLimiterRedis({
  storeClient: redis,
  keyPrefix: `${unit}-${seconds}`,
  points: limit,
  duration: seconds,
  inMemoryBlockOnConsumed: limit,
}));
// The union takes one amount for all of its limiters; that suits them, for a counter's cost does not depend on it.
const limiter = limiters.length === 1 ? limiters[0] : new RateLimiterUnion(...limiters);

async function decide(identity) {
  try {
    await limiter.consume(identity, 1);
    return 1;
  } catch (refused) {
    if (refused instanceof Error) throw refused;
    return 0;
  }
}

function cpuMicroseconds() {
  const { userCPUTime, systemCPUTime } = process.resourceUsage();
  return userCPUTime + systemCPUTime;
}

async function run(decisions, prefix) {
  const names = Array.from({ length: identities }, (_, number) => `${prefix}identity-${number}`);
  async function call(first) {
    let granted = 0;
    for (let number = first; number < decisions; number += concurrency) granted += await decide(names[number % identities]);
    return granted;
  }
  const waits = [];
  async function callAlone() {
    let granted = 0;
    for (let number = 0; number < decisions; number += 1) {
      const askedAt = process.hrtime.bigint();
      granted += await decide(names[number % identities]);
      waits.push(Number(process.hrtime.bigint() - askedAt) / 1000);
    }
    return granted;
  }
  const cpu = cpuMicroseconds();
  const started = process.hrtime.bigint();
  const granted = await Promise.all(concurrency === 1 ? [callAlone()] : Array.from({ length: concurrency }, (_, first) => call(first)));
  const elapsed = Number(process.hrtime.bigint() - started) / 1e9;
  const spent = cpuMicroseconds() - cpu;
  const p50 = waits.sort((one, other) => one - other)[Math.floor(waits.length / 2)] ?? null;
  return { decisions, granted: granted.reduce((sum, some) => sum + some), elapsed, cpu_us: spent, p50_us: p50 };
}

async function main() {
  const versionOf = (name) => require(`${name}/package.json`).version;
  const versions = { node: process.versions.node };
  for (const name of ['ioredis', 'rate-limiter-flexible']) versions[name] = versionOf(name);
  console.log(JSON.stringify(versions));
  let runs = 0;
  for await (const line of readline.createInterface({ input: process.stdin })) {
    console.log(JSON.stringify(await run(Number(line), fresh ? `${runs++}-` : '')));
  }
  await redis.quit();
}

main();
