// The contenders in Go. The first argument says which: redis_rate, or rueidis with a GCRA script, which may wait some microseconds after
// each flush for more to send (rueidis:20). The rest of the contract is that of bench/peers/python/runner.py.
package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"
)

type counter struct {
	Unit    string `json:"unit"`
	Amount  int    `json:"amount"`
	Limit   int    `json:"limit"`
	Seconds int    `json:"seconds"`
}

type scenario struct {
	Counters   []counter `json:"counters"`
	Identities int       `json:"identities"`
	Fresh      bool      `json:"fresh"`
}

type decide func(ctx context.Context, identity string) bool

//go:embed gcra.lua
var gcra string

// redisRate asks once for each counter; the calls are not atomic together.
func redisRate(url string, counters []counter, concurrency int) decide {
	options, err := redis.ParseURL(url)
	must(err)
	options.PoolSize = min(concurrency, 64)
	limiter := redis_rate.NewLimiter(redis.NewClient(options))
	limits := make([]redis_rate.Limit, len(counters))
	prefixes := make([]string, len(counters))
	for n, c := range counters {
		limits[n] = redis_rate.Limit{Rate: c.Limit, Burst: c.Limit, Period: time.Duration(c.Seconds) * time.Second}
		prefixes[n] = fmt.Sprintf("%s-%d-", c.Unit, c.Seconds)
	}
	return func(ctx context.Context, identity string) bool {
		for n, limit := range limits {
			result, err := limiter.AllowN(ctx, prefixes[n]+identity, limit, counters[n].Amount)
			must(err)
			if result.Allowed == 0 {
				return false
			}
		}
		return true
	}
}

// pipelined asks for all counters in one pipeline, which is not atomic either.
func pipelined(url string, counters []counter, delay time.Duration) decide {
	options, err := rueidis.ParseURL(url)
	must(err)
	options.DisableCache = true
	options.MaxFlushDelay = delay
	client, err := rueidis.NewClient(options)
	must(err)
	script := rueidis.NewLuaScript(gcra)
	prefixes, fixed := make([]string, len(counters)), make([][]string, len(counters))
	for n, c := range counters {
		period := float64(c.Seconds) * 1e6
		prefixes[n] = fmt.Sprintf("%s-%d-", c.Unit, c.Seconds)
		fixed[n] = []string{strconv.FormatFloat(period/float64(c.Limit), 'f', -1, 64), strconv.FormatFloat(period, 'f', -1, 64), strconv.Itoa(c.Amount)}
	}
	passes := func(result rueidis.RedisResult) bool {
		answer, err := result.ToArray()
		must(err)
		allowed, err := answer[0].AsInt64()
		must(err)
		return allowed > 0
	}
	if len(counters) == 1 {
		return func(ctx context.Context, identity string) bool {
			return passes(script.Exec(ctx, client, []string{prefixes[0] + identity}, fixed[0]))
		}
	}
	return func(ctx context.Context, identity string) bool {
		calls := make([]rueidis.LuaExec, len(counters))
		for n := range counters {
			calls[n] = rueidis.LuaExec{Keys: []string{prefixes[n] + identity}, Args: fixed[n]}
		}
		granted := true
		for _, result := range script.ExecMulti(ctx, client, calls...) {
			granted = passes(result) && granted
		}
		return granted
	}
}

func cpuMicroseconds() int64 {
	var used syscall.Rusage
	must(syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return used.Utime.Sec*1e6 + used.Utime.Usec + used.Stime.Sec*1e6 + used.Stime.Usec
}

func run(decide decide, decisions, concurrency int, names []string) map[string]any {
	var callers sync.WaitGroup
	var granted atomic.Int64
	var waits []float64 // of a single caller
	ctx, cpu, started := context.Background(), cpuMicroseconds(), time.Now()
	for first := range concurrency {
		callers.Go(func() {
			mine := 0
			for number := first; number < decisions; number += concurrency {
				var askedAt time.Time
				if concurrency == 1 {
					askedAt = time.Now()
				}
				if decide(ctx, names[number%len(names)]) {
					mine++
				}
				if concurrency == 1 {
					waits = append(waits, float64(time.Since(askedAt).Nanoseconds())/1000)
				}
			}
			granted.Add(int64(mine))
		})
	}
	callers.Wait()
	elapsed := time.Since(started).Seconds()
	spent := cpuMicroseconds() - cpu
	return map[string]any{"decisions": decisions, "granted": granted.Load(), "elapsed": elapsed, "cpu_us": spent, "p50_us": median(waits)}
}

// median is nil of nothing.
func median(waits []float64) any {
	if len(waits) == 0 {
		return nil
	}
	slices.Sort(waits)
	return waits[len(waits)/2]
}

func main() {
	kind, url := os.Args[1], os.Args[2]
	var task scenario
	must(json.Unmarshal([]byte(os.Args[3]), &task))
	concurrency, err := strconv.Atoi(os.Args[4])
	must(err)
	answer := json.NewEncoder(os.Stdout)
	must(answer.Encode(versions()))
	decide := contender(kind, url, task.Counters, concurrency)
	lines := bufio.NewScanner(os.Stdin)
	for runs := 0; lines.Scan(); runs++ {
		decisions, err := strconv.Atoi(lines.Text())
		must(err)
		prefix := ""
		if task.Fresh {
			prefix = fmt.Sprintf("%d-", runs)
		}
		names := make([]string, task.Identities)
		for n := range names {
			names[n] = fmt.Sprintf("%sidentity-%d", prefix, n)
		}
		must(answer.Encode(run(decide, decisions, concurrency, names)))
	}
}

func contender(kind, url string, counters []counter, concurrency int) decide {
	name, microseconds, _ := strings.Cut(kind, ":")
	if name == "redis_rate" {
		return redisRate(url, counters, concurrency)
	}
	delay, err := strconv.Atoi(microseconds)
	must(err)
	return pipelined(url, counters, time.Duration(delay)*time.Microsecond)
}

func versions() map[string]string {
	found := map[string]string{"go": strings.TrimPrefix(runtime.Version(), "go")}
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, module := range build.Deps {
			parts := strings.Split(module.Path, "/")
			if name := parts[len(parts)-1]; parts[0] == "github.com" && len(parts) > 2 && parts[2] != "xxhash" {
				if strings.HasPrefix(name, "v") {
					name = parts[len(parts)-2]
				}
				found[name] = strings.TrimPrefix(module.Version, "v")
			}
		}
	}
	return found
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
