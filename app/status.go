package app

import (
	"cmp"
	"context"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/upstream"
)

// state provides the state of a mirror to the API.
type state struct {
	*mirror
	cfg     config.FS // of the start, which holds for the store until the next one
	started time.Time
	reloads atomic.Pointer[reloader] // nil before the mirror listens
}

func newState(m *mirror, cfg config.FS) *state {
	return &state{mirror: m, cfg: cfg, started: time.Now()}
}

// Build names the program.
func (s *state) Build() api.Build {
	version, revision := Version()
	return api.Build{Version: version, Revision: revision, Go: runtime.Version(), Started: s.started.UTC()}
}

// Problems are the failures that last. Like /readyz, they name no paths and no users.
func (s *state) Problems(ctx context.Context) (ready bool, problems []api.Problem) {
	add := func(summary string, err error) {
		if err == nil {
			return
		}
		remedy := cmp.Or(remedyOf(err), "The log of the mirror has the reason.")
		cause, _, _ := strings.Cut(public(err), ". ")
		problems = append(problems, api.Problem{Summary: summary + ": " + strings.TrimSuffix(cause, "."), Remedy: remedy})
	}
	unready := s.storage.driver.Writable(ctx)
	add("no file can be created in the store", unready)
	add("content is served without being stored", s.storage.content.Err())
	add("records of tags and possession cannot be stored", s.storage.records.Err())
	add("the bucket is not used", s.storage.bucket.trouble())
	if r := s.reloads.Load(); r != nil && r.failed.Load() {
		problems = append(problems, api.Problem{
			Summary: "the changed configuration cannot be used, and the last one stays in force",
			Remedy:  "Run weir check, or see the log of the mirror, and correct the files.",
		})
	}
	return unready == nil, problems
}

// Store describes the store of this machine.
func (s *state) Store(context.Context) api.Store {
	one := api.Store{Kind: "disk", Limit: max(0, int64(s.cfg.MaxSize))}
	if s.storage.bucket != nil {
		one.Kind = "bucket"
	}
	one.Bytes, one.Objects = s.storage.driver.Size()
	if free, err := s.storage.driver.Spools().Free(); err == nil {
		one.Free = &free
	}
	one.Evicted.Objects, one.Evicted.Bytes = s.storage.evictions.Evicted()
	if age := s.storage.evictions.LastAge().Seconds(); age > 0 {
		one.EvictionAge = &age
	}
	if s.storage.bucket != nil {
		if known, ok := s.storage.bucket.metrics.Indexed(); ok {
			one.Bucket = &api.Bucket{Bytes: known.Bytes, Objects: known.Objects, Listed: known.Listed.UTC(), Limit: int64(s.storage.bucket.started.BlobStore.S3.MaxSize)}
		}
	}
	return one
}

// Blocks describes the content of this machine that the blocks brought in.
func (s *state) Blocks(ctx context.Context) []api.Block {
	blocks, known := s.storage.store.Blocks()
	var all []api.Block
	for _, block := range blocks {
		if !sees(ctx, block.Name, "") {
			continue
		}
		one := api.Block{Name: block.Name, Limit: block.Limit}
		if known {
			one.Bytes = &block.Bytes
		}
		all = append(all, one)
	}
	return all
}

// registries are the registries of a configuration with the keys of the blocks that read them.
type registries map[*upstream.Client][]string

func registriesOf(blocks []translated) registries {
	all := make(registries)
	for _, block := range blocks {
		for _, client := range block.clients {
			all[client] = append(all[client], block.spec.Key)
		}
	}
	return all
}

// Upstreams describes the registries whose blocks the client may see. Clients of one registry, which differ in
// their credentials for example, are reported as one.
func (s *state) Upstreams(ctx context.Context) []api.Upstream {
	known := make(map[string]*api.Upstream)
	latencies := make(map[string]float64) // sums, weighted by requests
	for client, keys := range *s.routing.registries.Load() {
		keys = slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return !sees(ctx, key, "") })
		if len(keys) == 0 {
			continue
		}
		is := client.Status()
		one := known[is.Host]
		if one == nil {
			one = &api.Upstream{Name: is.Host, State: string(upstream.StateUnknown), Errors: make(map[string]int64)}
			known[is.Host] = one
		}
		one.Blocks = append(one.Blocks, keys...)
		merge(one, is)
		latencies[is.Host] += is.Latency.Seconds() * float64(is.Requests)
	}
	all := make([]api.Upstream, 0, len(known))
	for _, name := range slices.Sorted(maps.Keys(known)) {
		one := known[name]
		slices.Sort(one.Blocks)
		one.Blocks = slices.Compact(one.Blocks)
		if one.Requests > 0 {
			one.Latency = latencies[name] / float64(one.Requests)
		}
		all = append(all, *one)
	}
	return all
}

// merge adds the state that one client knows to the state of its registry. The worst state counts, and the lowest rest of
// a rate limit.
func merge(one *api.Upstream, is upstream.Status) {
	worse := []string{string(upstream.StateUnknown), string(upstream.StateOK), string(upstream.StateLimited), string(upstream.StateFailing)}
	if slices.Index(worse, string(is.State)) > slices.Index(worse, one.State) {
		one.State = string(is.State)
	}
	if is.Until.After(one.CooldownUntil) {
		one.CooldownUntil = is.Until.UTC()
	}
	if is.HasLimit && (one.RateLimit == nil || is.Remaining < one.RateLimit.Remaining) {
		one.RateLimit = &api.RateLimit{Limit: is.Limit, Remaining: is.Remaining}
	}
	one.Requests += is.Requests
	for class, n := range is.Errors {
		one.Errors[class.String()] += n
	}
}

// Configuration returns the configuration in force. It names all blocks and the clients that may pull from them, so a client that
// may not know of all blocks learns nothing.
func (s *state) Configuration(ctx context.Context) []api.Setting {
	cfg := s.routing.clients.denied.inForce.Load()
	if cfg == nil || !s.SeesAll(ctx) {
		return nil
	}
	var all []api.Setting
	for _, one := range cfg.Settings() {
		all = append(all, api.Setting{Key: one.Key, Value: one.Value, Origin: cmp.Or(one.Origin, "default")})
	}
	return all
}

// SeesAll reports whether the client of a request may know of all blocks.
func (s *state) SeesAll(ctx context.Context) bool {
	return !slices.ContainsFunc(s.routing.keys(), func(key string) bool { return !sees(ctx, key, "") })
}
