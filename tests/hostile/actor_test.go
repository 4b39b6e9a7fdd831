package hostile

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirhq/weir/tests/harness"
)

// actor is one attacker: a registry that a block of the mirror leads to, clients, or
// both. The blocks of all actors are in one configuration, beside the honest ones.
type actor struct {
	name     string
	settings []string         // of its block
	upstream http.HandlerFunc // its registry with token service and CDN; nil: it has no block
	via      []string         // settings of its upstream; nil: the URL of its server

	workers int // run the attack again and again, each after a pause
	pause   time.Duration
	attack  func(ctx context.Context, a *attacker)
}

// attacker is an actor on the stage.
type attacker struct {
	actor
	stage  *stage
	server *httptest.Server // nil: it has no block
	http   *http.Client

	calm  atomic.Bool  // the round is over, and its registry says no
	sent  atomic.Int64 // requests of its clients, or other deeds
	asked atomic.Int64 // requests to its registry
	count atomic.Int64 // makes invented names unique
}

// patient is how long a hostile client waits for an answer: long enough to hold what an
// honest client needs, and short enough to come again some times in a round.
const patient = 1500 * time.Millisecond

func (s *stage) enter(a actor) *attacker {
	at := &attacker{actor: a, stage: s, http: &http.Client{Transport: &http.Transport{
		DisableCompression: true, MaxIdleConnsPerHost: a.workers, MaxResponseHeaderBytes: mib,
	}}}
	if a.upstream != nil {
		at.server = httptest.NewServer(at)
		s.t.Cleanup(at.server.Close)
	}
	return at
}

// ServeHTTP is the hostile registry while an attack lasts. Then it has nothing.
func (a *attacker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if a.calm.Load() {
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN")
		return
	}
	a.asked.Add(1)
	a.upstream(w, r)
}

// run attacks until the context ends.
func (a *attacker) run(ctx context.Context) {
	a.calm.Store(false)
	defer a.http.CloseIdleConnections()
	var all sync.WaitGroup
	for range a.workers {
		all.Go(func() {
			for ctx.Err() == nil {
				a.attack(ctx, a)
				wait(ctx, a.pause)
			}
		})
	}
	all.Wait()
}

// relent ends the attack of the registry: its open answers break off.
func (a *attacker) relent() {
	a.calm.Store(true)
	if a.server != nil {
		a.server.CloseClientConnections()
	}
}

// path is a path below the actor's own block.
func (a *attacker) path(format string, args ...any) string {
	return "/v2/" + a.name + "/" + fmt.Sprintf(format, args...)
}

// next is a number that no request had before.
func (a *attacker) next() int64 { return a.count.Add(1) }

// answer is an answer to a hostile client, or as much as it got of it in its patience.
type answer struct {
	status int // 0: none
	header http.Header
	body   []byte
	whole  bool
}

// get requests a path. Headers are name, value, name, value...
func (a *attacker) get(ctx context.Context, path string, headers ...string) answer {
	return a.do(ctx, http.MethodGet, path, headers...)
}

// getWhole requests a path as an honest client does, who waits for all of the answer.
func (a *attacker) getWhole(ctx context.Context, path string) answer {
	return a.within(ctx, harness.Patience, http.MethodGet, path)
}

func (a *attacker) do(ctx context.Context, method, path string, headers ...string) answer {
	return a.within(ctx, patient, method, path, headers...)
}

func (a *attacker) within(ctx context.Context, patience time.Duration, method, path string, headers ...string) answer {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, a.stage.mirror.URL+path, nil)
	if err != nil {
		a.stage.violated("%s: %v", a.name, err)
		return answer{}
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	a.sent.Add(1)
	resp, err := a.http.Do(req)
	if err != nil {
		return answer{}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, mib))
	return answer{resp.StatusCode, resp.Header, body, err == nil}
}

// dial opens a connection, and closes it when the context ends.
func (a *attacker) dial(ctx context.Context) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", a.stage.mirror.Addr)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	return conn, nil
}

// wait returns after a time, or when the context ends.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
