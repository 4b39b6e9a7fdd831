package access

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/bounded"
	"github.com/weirhq/weir/internal/flight"
)

const (
	// maxQuestions bounds the requests that one webhook gets at once. Further ones wait.
	maxQuestions = 64
	// maxAnswers bounds the remembered answers of a webhook. Each takes less than 200
	// bytes besides the overhead.
	maxAnswers = 16 << 10
	// maxAnswerBody bounds the body that is read so that the connection can be used
	// again. Its content means nothing.
	maxAnswerBody = 4 << 10
	// maxAnswerHeader bounds the header of an answer, of which only the status counts.
	maxAnswerHeader = 16 << 10

	userAgent = "weir"
)

// Webhook is a service that is asked whether a request is allowed.
type Webhook struct {
	Name           string
	URL            *url.URL
	Timeout        time.Duration
	BearerToken    string // empty: none
	Username       string // of Basic authentication; empty: none
	Password       string
	TLS            *tls.Config   // nil: the defaults
	ForwardHeaders []string      // of the client's request
	CacheTTL       time.Duration // for which an answer holds; 0: for its request only
}

// CheckForwardedHeader returns an error for a header that a webhook cannot get from
// clients: no name of a header, one that Weir sets itself and that clients could forge
// otherwise, or one of the connection.
func CheckForwardedHeader(name string) error {
	canonical := textproto.CanonicalMIMEHeaderKey(name)
	valid := name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return !strings.ContainsRune("!#$%&'*+-.^_`|~", r) && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
	switch {
	case !valid:
		return errors.New("is not the name of a header")
	case strings.HasPrefix(canonical, "X-Registry-") || strings.HasPrefix(canonical, "X-Forwarded-"):
		return errors.New("is a header that Weir sets itself; a client could forge it")
	case slices.Contains([]string{
		"Host", "Connection", "Content-Length", "Transfer-Encoding", "Upgrade", "Te", "Trailer", "Keep-Alive",
		"Proxy-Authorization", "Proxy-Connection", "Expect",
	}, canonical):
		return errors.New("is a header of the connection and not of the request")
	}
	return nil
}

// WebhookError says that a webhook gave no answer that decides.
type WebhookError struct {
	Webhook string
	Status  int   // of the answer; 0: there was none
	Err     error // nil: there was an answer
}

func (e *WebhookError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("the webhook %s did not answer: %v", e.Webhook, e.Err)
	}
	return fmt.Sprintf("the webhook %s answered %d, which neither allows (2xx) nor denies (401, 403)", e.Webhook, e.Status)
}

func (e *WebhookError) Unwrap() error { return e.Err }

// webhook asks a [Webhook] and remembers its answers.
type webhook struct {
	Webhook
	client  *http.Client
	slots   chan struct{}
	tags    *tagger
	running *flight.Group[tag, bool]
	answers *bounded.Cache[tag, answer] // nil: none is remembered
}

type answer struct {
	allowed bool
	at      time.Time
}

func newWebhook(w Webhook, tags *tagger) *webhook {
	asker := &webhook{
		Webhook: w, slots: make(chan struct{}, maxQuestions), tags: tags,
		running: flight.NewGroup[tag, bool](flight.NewScope()), // of the process, see close
	}
	if w.CacheTTL > 0 {
		const limit = 8 << 20 // far above that of the number
		asker.answers = bounded.New(maxAnswers, limit, func(tag, answer) int { return 0 })
	}
	asker.client = &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: w.Timeout}).DialContext,
			TLSClientConfig:        w.TLS,
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    maxQuestions,
			IdleConnTimeout:        90 * time.Second, // as net/http's own
			MaxResponseHeaderBytes: maxAnswerHeader,
		},
		// A redirect would take the client's headers elsewhere. It denies instead.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return asker
}

// close frees the connections that are idle. Questions under way get their answer.
func (w *webhook) close() { w.client.CloseIdleConnections() }

// allows asks whether a request is allowed. Requests that tell the webhook the same
// share one question and, for a while, its answer. It returns a *WebhookError if the
// webhook neither allows nor denies.
func (w *webhook) allows(ctx context.Context, i *Identity, q Question, p Presented) (bool, error) {
	key := w.tag(i, q, p)
	if w.answers != nil {
		if known, ok := w.answers.Get(key); ok && time.Since(known.at) < w.CacheTTL {
			return known.allowed, nil
		}
	}
	// The question outlives its first asker, whose departure must not deny the others. It
	// does not outlive all of them: clients that ask and leave would leave questions without
	// end, each with the header of its request.
	ends := time.Now().Add(w.Timeout)
	header := w.header(i, q, p)
	result, err := w.running.DoAdmitted(ctx, key, w.admit(ends), func(ctx context.Context) (bool, error) {
		ctx, cancel := context.WithDeadline(ctx, ends)
		defer cancel()
		allowed, err := w.ask(ctx, header)
		if err == nil && w.answers != nil {
			w.answers.Add(key, answer{allowed, time.Now()})
		}
		return allowed, err
	})
	return err == nil && result.Value, err
}

// admit waits for a slot until a time.
func (w *webhook) admit(ends time.Time) flight.Admit {
	return func(ctx context.Context) (func(), error) {
		ctx, cancel := context.WithDeadline(ctx, ends)
		defer cancel()
		select {
		case w.slots <- struct{}{}:
			return func() { <-w.slots }, nil
		case <-ctx.Done():
			return nil, &WebhookError{Webhook: w.Name, Err: errors.New("too many requests to it at once")}
		}
	}
}

// ask sends one question.
func (w *webhook) ask(ctx context.Context, header http.Header) (bool, error) {
	fail := func(status int, err error) (bool, error) {
		return false, &WebhookError{Webhook: w.Name, Status: status, Err: err}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, w.URL.String(), nil)
	if err != nil {
		return fail(0, withoutURL(err))
	}
	request.Header = header.Clone()
	request.Header.Set("User-Agent", userAgent)
	// The webhook's own credentials come last: a client cannot replace them.
	switch {
	case w.BearerToken != "":
		request.Header.Set("Authorization", "Bearer "+w.BearerToken)
	case w.Username != "":
		request.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(w.Username+":"+w.Password)))
	}
	response, err := w.client.Do(request)
	if err != nil {
		return fail(0, withoutURL(err))
	}
	defer response.Body.Close()
	_, _ = io.CopyN(io.Discard, response.Body, maxAnswerBody)
	switch {
	case response.StatusCode >= 200 && response.StatusCode <= 299:
		return true, nil
	case response.StatusCode == http.StatusUnauthorized || response.StatusCode == http.StatusForbidden:
		return false, nil
	default:
		return fail(response.StatusCode, nil)
	}
}

// withoutURL returns the cause of an error of net/http. The URL may hold a token.
func withoutURL(err error) error {
	if failed, ok := errors.AsType[*url.Error](err); ok {
		return failed.Err
	}
	return err
}

// tell calls add for everything that the webhook learns of a request besides the address of the
// client, in the words of Angos, and addAll for lists. The names are the same for all
// requests, but for those with a certificate. A value may be empty, and is left out then.
func (w *webhook) tell(i *Identity, q Question, p Presented, add func(name, value string), addAll func(name string, values []string)) {
	for _, name := range w.ForwardHeaders {
		addAll(name, p.Request.Header.Values(name))
	}
	add("X-Forwarded-Method", p.Request.Method)
	add("X-Forwarded-Proto", p.Scheme())
	add("X-Forwarded-Host", p.Request.Host)
	add("X-Forwarded-Uri", p.Request.RequestURI)
	add("X-Registry-Action", string(q.Action))
	add("X-Registry-Namespace", q.Namespace)
	add("X-Registry-Reference", q.Reference)
	add("X-Registry-Digest", q.digest())
	add("X-Registry-Username", i.User)
	add("X-Registry-Identity-Id", i.ID)
	if c := i.Certificate; c != nil {
		add("X-Registry-Certificate-Cn", c.CommonName)
		addAll("X-Registry-Certificate-O", c.Organizations)
	}
}

// header returns everything that the webhook learns of a request.
func (w *webhook) header(i *Identity, q Question, p Presented) http.Header {
	header := make(http.Header)
	add := func(name, value string) {
		if value != "" {
			header.Add(name, value)
		}
	}
	if i.Address.IsValid() {
		add("X-Forwarded-For", i.Address.String())
	}
	w.tell(i, q, p, add, func(name string, values []string) {
		for _, value := range values {
			add(name, value)
		}
	})
	return header
}

// tag returns the tag of everything that the webhook learns of a request. Requests with one tag
// have one header, since values of one name have one place in the text.
func (w *webhook) tag(i *Identity, q Question, p Presented) tag {
	text := w.tags.begin()
	text.addAddress(i.Address)
	w.tell(i, q, p, func(_, value string) { text.add(value) }, func(_ string, values []string) { text.addAll(values) })
	return w.tags.end(text)
}
