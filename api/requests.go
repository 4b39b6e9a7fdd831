package api

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/printable"
	"github.com/weirhq/weir/namespace/pulls"
	"github.com/weirhq/weir/namespace/traffic"
	"github.com/weirhq/weir/storage"
)

// Recent remembers the last requests for content.
type Recent interface {
	// Since returns the requests behind the one with a number, the last one first.
	Since(number uint64) []traffic.Request
	// Last returns the number of the last request.
	Last() uint64
}

// RequestsDocument lists requests, the last one first.
type RequestsDocument struct {
	Requests []RequestDocument `json:"requests"`
	Clients  []TopClient       `json:"clients,omitempty"` // those with most requests among these; none in an event
}

// TopClient counts the requests of a client.
type TopClient struct {
	Client   string `json:"client"`
	Requests int    `json:"requests"`
	Bytes    int64  `json:"bytes"`
}

// maxTop is how many clients are listed.
const maxTop = 10

// RequestDocument is a request that was answered.
type RequestDocument struct {
	Time       time.Time `json:"time"`
	Method     string    `json:"method"`
	Operation  string    `json:"operation"`
	Repository string    `json:"repository"`
	Reference  string    `json:"reference"`
	Status     int       `json:"status"`
	Bytes      int64     `json:"bytes"`
	Seconds    float64   `json:"seconds"`
	Cache      string    `json:"cache"`
	Client     string    `json:"client"`
	Upstream   string    `json:"upstream"`
}

// RequestFilter selects requests. An empty field selects all.
type RequestFilter struct {
	Status string // such as 404, or 4xx
	Cache  string
	Client string
	Part   string // of repository:reference or repository@digest
}

func (h *Handler) requests(ctx context.Context, r *http.Request) (any, error) {
	q := r.URL.Query()
	return h.Requests(ctx, RequestFilter{q.Get("status"), q.Get("cache"), q.Get("client"), q.Get("q")})
}

// Requests lists the last requests for what the client may know of. Those for no configured block are told to
// clients that may know of all blocks.
func (h *Handler) Requests(ctx context.Context, f RequestFilter) (RequestsDocument, error) {
	if class, isClass := strings.CutSuffix(f.Status, "xx"); f.Status != "" {
		if n, err := strconv.Atoi(class); err != nil || isClass && (n < 1 || n > 5) || !isClass && (n < 100 || n > 599) {
			return RequestsDocument{}, invalid("the parameter status must be a status such as 404, or a class such as 4xx")
		}
	}
	if len(f.Client) > maxText || len(f.Part) > maxText {
		return RequestsDocument{}, invalid("the parameters client and q may have at most " + strconv.Itoa(maxText) + " bytes")
	}
	document, _, err := h.requestsSince(ctx, 0, f)
	document.Clients = topClients(document.Requests)
	return document, err
}

// topClients returns the clients with most requests.
func topClients(requests []RequestDocument) []TopClient {
	counts := make(map[string]TopClient)
	for _, one := range requests {
		known := counts[one.Client]
		counts[one.Client] = TopClient{one.Client, known.Requests + 1, known.Bytes + one.Bytes}
	}
	top := slices.SortedFunc(maps.Values(counts), func(a, b TopClient) int {
		return cmp.Or(cmp.Compare(b.Requests, a.Requests), cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Client, b.Client))
	})
	return top[:min(len(top), maxTop)]
}

// requestsSince lists the requests behind the one with a number. It returns the number of the last one, listed or not.
func (h *Handler) requestsSince(ctx context.Context, number uint64, f RequestFilter) (document RequestsDocument, last uint64, err error) {
	document = RequestsDocument{Requests: []RequestDocument{}}
	for _, one := range h.opts.Recent.Since(number) {
		last = max(last, one.Number)
		told := requestDocumentOf(one)
		if f.selects(told) && h.seesRequest(ctx, one) {
			document.Requests = append(document.Requests, told)
		}
	}
	return document, last, ctx.Err() // the rules may not have been asked about all
}

// seesRequest reports whether the client may know of a request. The ID decides, since the printed name may lead to
// another repository by now: a reload may have removed or added a longer key.
func (h *Handler) seesRequest(ctx context.Context, one traffic.Request) bool {
	if one.ID == (storage.RepoID{}) {
		return h.opts.State.SeesAll(ctx)
	}
	repo, ok := h.opts.Names.Of(one.ID)
	return ok && h.opts.Names.Sees(ctx, repo) && h.opts.Names.Permits(ctx, repo, questionOf(one))
}

func requestDocumentOf(one traffic.Request) RequestDocument {
	clean := func(text string) string { return printable.Line(text, maxText) } // it is a client's
	return RequestDocument{
		Time: one.Time.UTC(), Method: clean(one.Method), Operation: one.Operation,
		Repository: clean(one.Repository), Reference: clean(one.Reference),
		Status: one.Status, Bytes: one.Bytes, Seconds: one.Took.Seconds(), Cache: one.Cache,
		Client: pulls.Client{User: one.User, Address: one.Address}.String(), Upstream: one.Upstream,
	}
}

func (f RequestFilter) selects(one RequestDocument) bool {
	status := strconv.Itoa(one.Status)
	if class, isClass := strings.CutSuffix(f.Status, "xx"); isClass {
		status, f.Status = status[:1], class
	}
	separator := ":"
	if strings.Contains(one.Reference, ":") { // of a digest
		separator = "@"
	}
	return (f.Status == "" || f.Status == status) && (f.Cache == "" || f.Cache == one.Cache) && (f.Client == "" || f.Client == one.Client) &&
		strings.Contains(one.Repository+separator+one.Reference, f.Part)
}
