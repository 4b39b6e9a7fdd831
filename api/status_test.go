package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirhq/weir/namespace/traffic"
	"github.com/weirhq/weir/storage/catalog"
)

// counted is a mirror with all that a status can tell.
type counted struct {
	figures traffic.Figures
	fail    error
	blind   bool
	looks   atomic.Int32
}

func (c *counted) SeesAll(context.Context) bool { return !c.blind }

func (c *counted) Build() Build { return Build{"v1", "abc", "go1", time.Unix(0, 0).UTC()} }

func (c *counted) Problems(context.Context) (bool, []Problem) {
	return true, []Problem{{"the bucket is not used", "Check the bucket."}}
}

func (c *counted) Store(context.Context) Store {
	free, age := int64(5), 1.5
	return Store{Kind: "disk", Bytes: 1, Limit: 2, Objects: 3, Free: &free, EvictionAge: &age, Evicted: Evicted{Objects: 4, Bytes: 6}}
}

func (c *counted) Blocks(context.Context) []Block {
	bytes := int64(3)
	return []Block{{Name: "a", Bytes: &bytes, Limit: 9}, {Name: "b"}}
}

func (c *counted) Upstreams(context.Context) []Upstream {
	return []Upstream{{Name: "ghcr.io", Blocks: []string{"ghcr.io"}, State: "cooldown", CooldownUntil: time.Unix(1, 0).UTC(), RateLimit: &RateLimit{100, 3}, Requests: 4, Errors: map[string]int64{"denied": 1}, Latency: .1}}
}

func (c *counted) Configuration(context.Context) []Setting {
	return []Setting{{"server.port", "8000", "default"}}
}

func (c *counted) Figures(context.Context) (traffic.Figures, error) { return c.figures, c.fail }

func (c *counted) Now() catalog.Amounts {
	c.looks.Add(1)
	return c.figures.Now
}

func TestStatus(t *testing.T) {
	m := newMirror(t)
	some := catalog.Amounts{Requests: 4, Hits: 3, Served: 100, Fetched: 40}
	m.counted.figures = traffic.Figures{Hour: some, Day: catalog.Amounts{Served: 1, Fetched: 2}, Curve: []traffic.Point{{Time: time.Unix(900, 0).UTC(), Amounts: some}}}
	w := m.get(t, "status")
	expectDescribed(t, "/status", w.Code, w.Body.Bytes())
	var s Status
	if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if want := (Amounts{4, 3, .75, 100, 40, 60}); s.Traffic.Hour != want {
		t.Errorf("the hour has %+v", s.Traffic.Hour)
	}
	if s.Traffic.Day.Saved != 0 || s.Traffic.Now != (Amounts{}) {
		t.Errorf("the day has %+v, the last minute %+v", s.Traffic.Day, s.Traffic.Now)
	}
	if !s.Ready || len(s.Problems) != 1 || len(s.Upstreams) != 1 || len(s.Configuration) != 1 || len(s.Curve) != 1 || s.Version != "v1" {
		t.Errorf("%+v", s)
	}
	m.counted.fail = errors.New("the disk at /secret is broken")
	w = m.get(t, "status")
	expectDescribed(t, "/status", w.Code, w.Body.Bytes())
	s = Status{}
	if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil || w.Code != http.StatusOK || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	// The status has the figures that are known, and says that others are missing.
	if len(s.Problems) != 2 || len(s.Upstreams) != 1 || s.Traffic.Hour.Served != 100 {
		t.Errorf("%+v", s)
	}
}
