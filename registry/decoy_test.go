package registry_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/access"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// distant is a connection to a server that is far away.
type distant struct{ net.Conn }

func (c distant) Write(p []byte) (int, error) {
	time.Sleep(40 * time.Millisecond)
	return c.Conn.Write(p)
}

// registryOf is a kind of upstream that a guess may meet.
type registryOf struct {
	options []upstreamtest.Option
	fault   func(*upstreamtest.Registry)
	second  bool // another registry has such a block, too
	retries bool // failed requests are repeated
	forms   bool // it gets guesses of all forms
	change  func(*testing.T, *access.Options)
}

func registriesOf() map[string]registryOf {
	root := func(r *http.Request) bool { return r.URL.Path == "/v2/" }
	accounts := upstreamtest.WithAccounts(upstreamtest.Account{Username: "dora", Password: "secret of dora", Repositories: []string{"app"}}, upstreamtest.Account{})
	tokens, passwords := []upstreamtest.Option{accounts, bearer()}, []upstreamtest.Option{accounts}
	faulty := func(match upstreamtest.Match, effects ...upstreamtest.Effect) func(*upstreamtest.Registry) {
		return func(r *upstreamtest.Registry) { r.Fault(match, effects...) }
	}
	return map[string]registryOf{
		"tokens":                       {options: tokens, forms: true},
		"tokens, two registries":       {options: tokens, second: true},
		"passwords":                    {options: passwords, forms: true},
		"passwords, two registries":    {options: passwords, second: true},
		"passwords, asked at the root": {options: passwords, fault: faulty(root, upstreamtest.Status(401, ""), upstreamtest.Header("WWW-Authenticate", `Basic realm="registry"`))},
		"open":                         {forms: true},
		"hides":                        {options: append(tokens, upstreamtest.WithHiddenContent(404))},
		"away":                         {options: tokens, retries: true, fault: faulty(upstreamtest.Any, upstreamtest.Drop())},
		"broken":                       {options: tokens, retries: true, fault: faulty(upstreamtest.Any, upstreamtest.Status(500, ""))},
		"broken token service":         {options: tokens, retries: true, fault: faulty(upstreamtest.Tokens, upstreamtest.Status(503, ""))},
		"limited token service":        {options: tokens, fault: faulty(upstreamtest.Tokens, upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "30"))},
		"limited":                      {options: passwords, fault: faulty(upstreamtest.Manifests, upstreamtest.Status(429, ""), upstreamtest.Header("Retry-After", "30"))},
		"token service says 403":       {options: tokens, fault: faulty(upstreamtest.Tokens, upstreamtest.Status(403, ""))},
		"says 403":                     {options: passwords, fault: faulty(upstreamtest.Manifests, upstreamtest.Status(403, ""))},
		"counts guesses": {options: tokens, fault: func(r *upstreamtest.Registry) {
			r.Fault(upstreamtest.Tokens, upstreamtest.Status(401, "")).Times(3)
			r.Fault(upstreamtest.Tokens, upstreamtest.Status(429, "")).Times(6)
		}},
		"a list":    {options: tokens, change: func(t *testing.T, o *access.Options) { o.Blocks[0].Allow = subjects(t, "alice") }},
		"a name":    {options: tokens, change: func(_ *testing.T, o *access.Options) { o.Blocks[0].Images = []string{"!app"} }},
		"a policy":  {options: tokens, change: func(_ *testing.T, o *access.Options) { o.Blocks[0].Policy = &access.Policy{Rules: []string{"false"}} }},
		"anonymous": {options: tokens, change: func(_ *testing.T, o *access.Options) { o.Anonymous = true }},
		"tokens of the mirror": {options: tokens, change: func(_ *testing.T, o *access.Options) {
			o.Tokens = access.TokenOptions{Key: []byte(strings.Repeat("k", 32)), TTL: time.Hour}
		}},
	}
}

// A guess at the password of one of the mirror's accounts meets what a guess at any other name
// meets where the upstream decides: neither the answers, nor their times, nor the number and
// kind of the requests upstream tell which names the mirror has. And neither its name nor the
// guess reaches the upstream.
func TestGuessesTellNoNames(t *testing.T) {
	for name, kind := range registriesOf() {
		t.Run(name, func(t *testing.T) {
			mirrors, foreign := guess(t, kind, "alice"), guess(t, kind, "carol")
			if d := cmp.Diff(foreign, mirrors); d != "" {
				t.Errorf("a name of the mirror's meets (+), another one (-):\n%s", d)
			}
			if reached := strings.Contains(fmt.Sprint(foreign), "upstream: "); reached == (name == "a list" || name == "a policy") {
				t.Errorf("guesses reach the upstream: %t", reached)
			}
		})
	}
}

// guess sends guesses of one name to a new mirror, and returns the course of each: the answer,
// the requests upstream, and the time.
func guess(t *testing.T, kind registryOf, name string) (courses []string) {
	synctest.Test(t, func(t *testing.T) {
		network := upstreamtest.NewNetwork()
		at := func(host string) (*upstreamtest.Registry, *upstream.Client) {
			r := upstreamtest.New(t, append(slices.Clone(kind.options), upstreamtest.WithNetwork(network, host))...)
			r.AddImage("app", "v1", []byte("a layer"))
			c := upstream.NewClient(upstream.Options{
				URL: r.URL, ConnectTimeout: 2 * time.Second, ReadTimeout: 5 * time.Second,
				DialContext: func(ctx context.Context, network2, address string) (net.Conn, error) {
					conn, err := network.DialContext(ctx, network2, address)
					if err != nil {
						return nil, err
					}
					return distant{conn}, nil
				},
			})
			t.Cleanup(c.Close)
			return r, c
		}
		r, c := at("up.example")
		m := newMirror(t, block(t, r, onBehalf(c)))
		opts, _, _ := alice(t, false)
		opts.Blocks = []access.Block{{Key: "up.example"}, {Key: "other.example"}}
		if kind.second {
			r2, c2 := at("other.example")
			m.serve(block(t, r, onBehalf(c)), block(t, r2, onBehalf(c2), func(s *namespace.Spec) { s.Key, s.Host = "other.example", "" }))
		}
		if kind.change != nil {
			kind.change(t, &opts)
		}
		m.rules(opts)
		// Some of the content is cached for another client.
		dora := account{t, m, basic("dora", "secret of dora")}
		dora.do(http.MethodGet, "/v2/up.example/app/manifests/v1")
		m.settle()
		if kind.fault != nil {
			kind.fault(r)
		}
		dgst := digest.FromString("a layer").String()
		lines := []string{
			"GET /token?scope=repository:up.example/app:pull", "POST /token", "GET /v2/", "GET /token?service=weir", "GET /v2/app/manifests/v1?ns=up.example",
			"HEAD /v2/up.example/app/manifests/v1", "GET /v2/up.example/app/manifests/" + dgst,
			"GET /v2/up.example/app/blobs/" + dgst, "HEAD /v2/up.example/app/blobs/" + dgst, "GET /v2/up.example/app/tags/list",
			"GET /v2/up.example/app/referrers/" + dgst, "GET /v2/up.example/other/manifests/v1", "PUT /v2/up.example/app/manifests/v1",
		}
		type step struct {
			password string
			rounds   int // the second one from memory, the third one after that
		}
		steps := []step{{"guess", 3}, {"", 2}, {strings.Repeat("long guess", 2000), 1}, {`"<\xff>"`, 1}, {"eyJ.b.c.d.e", 1}, {"eyJhbGciOiJSUzI1NiJ9.e30.c2ln", 1}}
		if !kind.forms {
			steps = steps[:1]
		}
		for _, step := range steps {
			for round := range step.rounds {
				if round == 2 {
					time.Sleep(2 * time.Minute)
				}
				for _, line := range lines {
					courses = append(courses, m.course(r, name, step.password, line, kind.retries))
				}
			}
		}
	})
	return courses
}

// course returns the course of one guess: the answer, the requests upstream, and the time.
func (m *mirror) course(r *upstreamtest.Registry, name, password, line string, retries bool) string {
	m.t.Helper()
	r.ResetRequests()
	began := time.Now()
	method, target, _ := strings.Cut(line, " ")
	sender := account{m.t.(*testing.T), m, basic(name, password)}
	var body []string
	if method == http.MethodPost {
		form := url.Values{"grant_type": {"password"}, "username": {name}, "password": {password}, "scope": {"repository:up.example/app:pull"}}
		sender.authorization, body = "", []string{form.Encode()}
	}
	w := sender.do(method, target, body...)
	took := time.Since(began)
	synctest.Wait() // what was downloaded is stored
	answer := w.Body.String()
	if strings.HasPrefix(answer, `{"token"`) { // which is sealed with a random number
		answer = fmt.Sprint("a token, in ", len(answer))
	}
	course := []string{fmt.Sprintf("%s of %.20q: %d %v %s", line, password, w.Code, w.Header(), answer)}
	for _, sent := range r.Log() {
		course = append(course, "upstream: "+sent.Server+" "+sent.String()+" "+credentialOf(m.t, sent.Header, name, password))
	}
	if !retries { // their pauses are random
		course = append(course, fmt.Sprint("took ", took))
	}
	return strings.Join(course, "\n")
}

// credentialOf describes the credential in a request upstream. Of those with a name of the
// mirror's, it has neither the name nor the password.
func credentialOf(t testing.TB, sent http.Header, name, password string) string {
	t.Helper()
	scheme, rest, _ := strings.Cut(sent.Get("Authorization"), " ")
	if scheme != "Basic" {
		return scheme
	}
	text, err := base64.StdEncoding.DecodeString(rest)
	if err != nil {
		t.Error(err)
	}
	user, shown, _ := strings.Cut(string(text), ":")
	if name == "alice" && (user == name || password != "" && strings.Contains(shown, password)) {
		t.Errorf("the upstream gets %s with the guess %.20q", text, password)
	}
	return fmt.Sprint("with a name of ", len(user), " and a password of ", len(shown))
}
