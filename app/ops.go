package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/internal/episode"
	"github.com/weirhq/weir/internal/forwarded"
	"github.com/weirhq/weir/internal/printable"
	"github.com/weirhq/weir/internal/reply"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
)

// ops answers probes and scrapes, at /healthz, /readyz and /metrics, people, at /, and both at
// the API for cached content. It knows nothing of /v2, so it can have a listener of its own.
type ops struct {
	// ready reports why the mirror cannot do its work at the moment.
	ready func(context.Context) error
	// content is the health of the store. A mirror that cannot store content
	// still serves it, so it is ready, and says so.
	content *storage.Health
	// bucket returns why the bucket is not used at the moment. The mirror does its work
	// without it.
	bucket   func() error
	gatherer prometheus.Gatherer
	page     *page
	browsers browsers     // the pages for people, where the API is
	api      http.Handler // below api.Prefix
	proxies  *forwarded.Current
	access   *access.Current
	// apart is set if operators have a listener of their own, see adminHandler.
	apart   bool
	unready *episode.Episode // for the log
	logger  *slog.Logger
}

// handler serves the paths of ops, and answers 404 to all others.
func (o *ops) handler() http.Handler {
	paths := o.probes()
	guard := guard{o.access, o.proxies}
	if !o.apart {
		paths["/metrics"] = guard.handler(access.ReadMetrics, o.metrics(), refuse)
		paths[api.Prefix] = guard.guardAPI(o.api, refuseDocument)
	}
	text := guard.handler(access.ReadPage, o.page, refuse)
	paths["/"] = text
	if !o.apart {
		o.browsers.add(paths, guard, text)
	}
	return o.logged(paths)
}

// adminHandler serves the paths of operators that have a listener of their own: the metrics,
// the API for cached content and the profiles of net/http/pprof. The rules hold there too: a
// profile reveals more than a metric. The challenge of a refusal names the token service at the host that
// was asked, so the registry answers /token there as well.
func (o *ops) adminHandler(registry http.Handler) http.Handler {
	paths := o.probes()
	paths["/token"] = registry
	guard := guard{o.access, o.proxies}
	paths["/metrics"] = guard.handler(access.ReadMetrics, o.metrics(), refuse)
	paths[api.Prefix] = guard.guardAPI(o.api, refuseDocument)
	o.browsers.add(paths, guard, nil)
	for path, profile := range map[string]http.HandlerFunc{
		"/debug/pprof/cmdline": pprof.Cmdline, "/debug/pprof/profile": pprof.Profile, "/debug/pprof/symbol": pprof.Symbol, "/debug/pprof/trace": pprof.Trace,
	} {
		paths[path] = guard.handler(access.ReadMetrics, profile, refuse)
	}
	paths[profilesBelow] = guard.handler(access.ReadMetrics, http.HandlerFunc(pprof.Index), refuse)
	return o.logged(paths)
}

// profilesBelow begins the paths of all other profiles of net/http/pprof.
const profilesBelow = "/debug/pprof/"

// endpoints are handlers by their paths. Paths are taken as they come: a cleaned one, as
// http.ServeMux has it, would not be the path that the client asked for.
type endpoints map[string]http.Handler

func (e endpoints) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	handler := e[r.URL.Path]
	for _, prefix := range []string{profilesBelow, api.Prefix} {
		if handler == nil && strings.HasPrefix(r.URL.Path, prefix) {
			handler = e[prefix]
		}
	}
	if handler == nil {
		noEndpoint(w, r)
		return
	}
	handler.ServeHTTP(w, r)
}

// probes returns the probes, which have no credentials and learn nothing but the state.
func (o *ops) probes() endpoints {
	const calm = 10 * time.Second // two or three probes of Kubernetes
	if o.unready == nil {
		o.unready = episode.New(calm, func() { o.logger.Info("ready again: files can be created in the store") })
	}
	return endpoints{"/healthz": http.HandlerFunc(o.health), "/readyz": http.HandlerFunc(o.readiness)}
}

func (o *ops) metrics() http.Handler {
	return promhttp.HandlerFor(o.gatherer, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

// probesOnly passes on requests for the two probes, which any client may send.
func probesOnly(ops http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" && r.URL.Path != "/readyz" {
			noEndpoint(w, r)
			return
		}
		ops.ServeHTTP(w, r)
	})
}

const (
	// Alive is the body of a mirror's answer at /healthz.
	Alive = "ok\n"
	// Ready begins the body of a ready mirror's answer at /readyz.
	Ready = "ready"
	// NotReady begins the body of the answer of one that is not.
	NotReady = "not ready: "
)

func (o *ops) health(w http.ResponseWriter, _ *http.Request) {
	_, _ = w.Write([]byte(Alive)) // a probe that was abandoned counts as failed
}

func (o *ops) readiness(w http.ResponseWriter, r *http.Request) {
	if err := o.ready(r.Context()); err != nil {
		// A probe that was abandoned says nothing about the store.
		if r.Context().Err() == nil && o.unready.Bad() {
			o.logger.Error("not ready: no file can be created in the store", "error", err)
		}
		http.Error(w, NotReady+public(err), http.StatusServiceUnavailable)
		return
	}
	o.unready.Good()
	// A mirror that cannot store is still of use, so it stays in rotation.
	if err := o.content.Err(); err != nil {
		fmt.Fprintf(w, Ready+", but content is served without being stored: %s\n", public(err))
		return
	}
	if o.bucket != nil && o.bucket() != nil {
		fmt.Fprintf(w, Ready+", but the bucket is not used: %s\n", public(o.bucket()))
		return
	}
	_, _ = w.Write([]byte(Ready + "\n")) // as in health
}

// noEndpoint answers a path that nothing is served at. A client that has the
// mirror's address wrong by a path reads error documents only.
func noEndpoint(w http.ResponseWriter, r *http.Request) {
	writeError(w, http.StatusNotFound, "NAME_UNKNOWN", `no such endpoint: "`+printable.Path(r)+`"`)
}

// writeError answers with an error document (distribution-spec, "Error Codes").
func writeError(w http.ResponseWriter, status int, code, message string) {
	body, err := json.Marshal(oci.ErrorDocument{Errors: []oci.ErrorItem{{Code: code, Message: message}}})
	if err != nil {
		panic(err) // two strings are always JSON
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has left needs no answer
}

// logged writes a line to the log for each request, for debugging unless it
// failed: probes and scrapes come every few seconds. A panic is logged with its
// stack and answered with 500.
func (o *ops) logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from := &opsVisitor{}
		r = r.WithContext(context.WithValue(r.Context(), opsVisitorKey{}, from))
		start, answer := time.Now(), &reply.Writer{ResponseWriter: w}
		o.serve(next, answer, r)
		status := cmp.Or(answer.Status, http.StatusOK) // which net/http sends if no handler sets a status
		level := slog.LevelDebug
		// The log has said once why the mirror is not ready; probes go on.
		if status >= http.StatusInternalServerError && status != http.StatusServiceUnavailable {
			level = slog.LevelWarn
		} else if from.refused != nil {
			level = slog.LevelInfo // it may be a guess at a password
		}
		attrs := o.proxies.Load().AppendAttrs([]slog.Attr{
			slog.String("method", printable.Method(r)), slog.String("operation", "other"), slog.String("path", printable.Path(r)),
			slog.Int("status", status), slog.Int64("bytes", answer.Written), slog.Duration("duration", time.Since(start)), slog.String("cache", "none"),
		}, r)
		if from.user != "" {
			attrs = append(attrs, slog.String("user", from.user))
		}
		if from.refused != nil {
			attrs = append(attrs, slog.Any("error", from.refused))
		}
		o.logger.LogAttrs(r.Context(), level, requestMessage, attrs...)
	})
}

// serve serves a request, and survives a panic of its handler.
func (o *ops) serve(handler http.Handler, w http.ResponseWriter, r *http.Request) {
	defer func() {
		// A client that leaves in the middle aborts its handler.
		if failure := recover(); failure != nil && failure != http.ErrAbortHandler {
			o.logger.Error("a handler panicked. This is a bug in the mirror. Please report it with this stack",
				"method", printable.Method(r), "path", printable.Path(r), "panic", failure, "stack", string(debug.Stack()))
			http.Error(w, "internal error; the mirror's log has the details", http.StatusInternalServerError)
		}
	}()
	handler.ServeHTTP(w, r)
}

// opsVisitor is the sender of a request, for the log.
type opsVisitor struct {
	user    string // "" without credentials
	refused error  // of its credentials, or of a client that has some
}

type opsVisitorKey struct{}

// noteVisitor keeps the sender of a request for its line in the log. A request without
// credentials that needs some is none to note: browsers begin with it.
func noteVisitor(ctx context.Context, identity *access.Identity, err error) {
	from, ok := ctx.Value(opsVisitorKey{}).(*opsVisitor)
	if !ok {
		return
	}
	if identity != nil && !identity.Anonymous {
		from.user = identity.Name()
	}
	if denied, isDenied := errors.AsType[*access.DeniedError](err); !isDenied || !denied.Anonymous {
		from.refused = err
	}
}

// mount puts the API and ops behind one listener. The API comes first, so a pull
// passes no other route.
func mount(api, ops http.Handler) http.Handler {
	nosniff := []string{"nosniff"}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Content is untrusted. A browser must not guess that it is a page, and run it
		// as one of the mirror's (Fetch standard, section 3.6).
		w.Header()["X-Content-Type-Options"] = nosniff
		// The API refuses paths that are not canonical.
		if strings.HasPrefix(r.URL.Path, "/v2") || r.URL.Path == "/token" {
			api.ServeHTTP(w, r)
			return
		}
		ops.ServeHTTP(w, r)
	})
}
