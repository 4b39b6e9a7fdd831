package registry_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/upstream"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// beside returns an open mirror of Docker Hub and of a registry whose upstream decides, and,
// if two is set, of another such registry with a port in its key. The registries have names.
func beside(t *testing.T, two bool) (*mirror, map[string]*upstreamtest.Registry) {
	t.Helper()
	hub := upstreamtest.New(t)
	hub.AddImage("library/nginx", "latest", []byte("public"))
	up, m := rights(t, bearer())
	registries := map[string]*upstreamtest.Registry{"hub": hub, "up": up}
	at := func(r *upstreamtest.Registry, key, host string) namespace.Spec {
		c := upstream.NewClient(upstream.Options{URL: r.URL, ConnectTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second})
		t.Cleanup(c.Close)
		return block(t, r, onBehalf(c), func(s *namespace.Spec) { s.Key, s.Host = key, host })
	}
	specs := []namespace.Spec{
		block(t, hub, func(s *namespace.Spec) { s.Key, s.Host, s.Default, s.DockerHub = "docker.io", "docker.io", true, true }),
		at(up, "up.example", "up.example"),
	}
	if two {
		other := upstreamtest.New(t, bearer(), upstreamtest.WithAccounts(upstreamtest.Account{
			Username: reader.Username, Password: reader.Password, Repositories: []string{"app"},
		}))
		registries["other"] = other
		specs = append(specs, at(other, "localhost:5000", "localhost:5000"))
	}
	m.serve(specs...)
	return m, registries
}

// asked returns the requests that each registry got, with their scopes and users.
func asked(t *testing.T, registries map[string]*upstreamtest.Registry) (lines []string) {
	t.Helper()
	for _, name := range []string{"hub", "up", "other"} {
		if registries[name] == nil {
			continue
		}
		for _, sent := range registries[name].Log() {
			target, err := url.Parse(sent.URI)
			if err != nil {
				t.Fatal(err)
			}
			line := name + ": " + sent.Method + " " + target.Path
			if scope := target.Query().Get("scope"); scope != "" {
				line += " " + scope
			}
			if authorization := sent.Header.Get("Authorization"); authorization != "" {
				scheme, _, _ := strings.Cut(authorization, " ")
				user, _, _ := (&http.Request{Header: sent.Header}).BasicAuth()
				line += " " + scheme + " " + user
			}
			lines = append(lines, line)
		}
	}
	return lines
}

// A password reaches the registry that the request for a token names, and no other one. One
// without a repository is a login, which is checked if it can be for one registry only.
// Dockerd with registry-mirrors sends its password for Docker Hub to this mirror, because the
// answer to /v2/ is a challenge.
func TestScopesDecideWhoGetsThePassword(t *testing.T) {
	const nginx, app, ported = "repository:library/nginx:pull", "repository:up.example/app:pull", "repository:localhost:5000/app:pull"
	at := func(registry, scope string) []string {
		return []string{registry + ": GET /v2/", strings.TrimSpace(registry+": GET /token "+scope) + " Basic alice"}
	}
	login, appAtUp, appAtOther := at("up", ""), at("up", "repository:app:pull"), at("other", "repository:app:pull")
	for name, tt := range map[string]struct {
		two    bool // two registries that decide
		ns     string
		scopes []string
		want   []string
	}{
		"dockerd":                       {false, "", []string{nginx}, nil},
		"dockerd, two registries":       {true, "", []string{nginx}, nil},
		"a short name":                  {false, "", []string{"repository:nginx:pull"}, nil},
		"a whole name":                  {false, "", []string{"repository:docker.io/library/nginx:pull"}, nil},
		"a push too":                    {false, "", []string{"repository:library/nginx:push,pull"}, nil},
		"all actions":                   {false, "", []string{"repository:library/nginx:*"}, nil},
		"a plugin":                      {false, "", []string{"repository(plugin):library/nginx:pull"}, nil},
		"several":                       {false, "", []string{nginx, "repository:library/alpine:pull"}, nil},
		"several in one":                {false, "", []string{nginx + " repository:library/alpine:pull"}, nil},
		"beside the catalog":            {false, "", []string{"registry:catalog:*", nginx}, nil},
		"no block":                      {false, "", []string{"repository:nowhere.example/app:pull"}, nil},
		"a port without a block":        {false, "", []string{ported}, nil},
		"a port of another registry":    {false, "", []string{"repository:up.example:5000/app:pull"}, nil},
		"a port, no actions":            {false, "", []string{"repository:up.example:5000/app"}, nil},
		"no name":                       {false, "", []string{"repository::pull"}, nil},
		"a name that is not valid":      {false, "", []string{"repository:up.example/../app:pull"}, nil},
		"no actions":                    {false, "", []string{"repository:library/nginx"}, nil},
		"a word":                        {false, "", []string{"repository"}, nil},
		"another resource":              {false, "", []string{"artifact:library/nginx:pull"}, nil},
		"by ns":                         {false, "docker.io", []string{nginx}, nil},
		"by ns, in upper case":          {false, "Docker.IO", []string{"repository:nginx:pull"}, nil},
		"by an unknown ns":              {false, "nowhere.example", []string{"repository:app:pull"}, nil},
		"a login by ns":                 {false, "docker.io", nil, nil},
		"a login by an unknown ns":      {false, "nowhere.example", nil, nil},
		"the catalog by ns":             {false, "docker.io", []string{"registry:catalog:*"}, nil},
		"the registry":                  {false, "", []string{app}, appAtUp},
		"the registry by ns":            {false, "up.example", []string{"repository:app:pull"}, appAtUp},
		"the registry after another":    {false, "", []string{nginx, app}, appAtUp},
		"the registry after it, in one": {false, "", []string{nginx + " " + app}, appAtUp},
		"the first of two registries":   {true, "", []string{app}, appAtUp},
		"the second, with a port":       {true, "", []string{ported}, appAtOther},
		"both":                          {true, "", []string{ported, app}, appAtOther}, // a token is for one
		"a login":                       {false, "", nil, login},
		"a login by its ns":             {false, "up.example", nil, login},
		"an empty scope":                {false, "", []string{" "}, login},
		"the catalog":                   {false, "", []string{"registry:catalog:*"}, login},
		"a login at two registries":     {true, "", nil, nil},
		"the catalog of two registries": {true, "", []string{"registry:catalog:*"}, nil},
	} {
		for _, way := range []string{"GET", "POST", "POST with a query"} {
			t.Run(name+" by "+way, func(t *testing.T) {
				m, registries := beside(t, tt.two)
				values := url.Values{"scope": tt.scopes}
				if tt.ns != "" {
					values.Set("ns", tt.ns)
				}
				form := url.Values{"grant_type": {"password"}, "username": {reader.Username}, "password": {reader.Password}, "service": {"weir"}}
				sender, method, target, body := account{t, m, ""}, http.MethodPost, "/token", ""
				switch way {
				case "GET":
					sender.authorization, method = asBasic(reader), http.MethodGet
					target += "?service=weir&" + values.Encode()
				case "POST":
					for key := range values {
						form[key] = values[key]
					}
					body = form.Encode()
				default:
					target += "?" + values.Encode()
					body = form.Encode()
				}
				answer := sender.do(method, target, body)
				if diff := cmp.Diff(tt.want, asked(t, registries)); diff != "" {
					t.Errorf("the registries got (-want +got):\n%s", diff)
				}
				// Docker Hub's image comes with the token, and without a password upstream.
				for _, r := range registries {
					r.ResetRequests()
				}
				pulled := account{t, m, "Bearer " + tokenOf(t, answer)}.do(http.MethodGet, "/v2/library/nginx/manifests/latest")
				if pulled.Code != http.StatusOK {
					t.Errorf("a pull with the token: %d %s", pulled.Code, pulled.Body)
				}
				if diff := cmp.Diff([]string{"hub: GET /v2/library/nginx/manifests/latest"}, asked(t, registries)); diff != "" {
					t.Errorf("the pull caused (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// The registry that decides refuses a password for Docker Hub. Its refusal stops no pull from
// there, from the challenge on.
func TestDockerHubBesideRights(t *testing.T) {
	m, registries := beside(t, false)
	hubs := asBasic(upstream.Credential{Username: "dora", Password: "secret at Docker Hub"})
	ping := account{t, m, ""}.do(http.MethodGet, "/v2/")
	if ping.Code != http.StatusUnauthorized || !strings.HasPrefix(ping.Header().Get("WWW-Authenticate"), "Bearer ") {
		t.Fatalf("%d %q", ping.Code, ping.Header().Get("WWW-Authenticate"))
	}
	answer := account{t, m, hubs}.do(http.MethodGet, "/token?account=dora&scope=repository%3Alibrary%2Fnginx%3Apull&service=weir")
	if answer.Code != http.StatusOK {
		t.Fatalf("a token: %d %s", answer.Code, answer.Body)
	}
	token := account{t, m, "Bearer " + tokenOf(t, answer)}
	for target, want := range map[string]int{"/v2/": 200, "/v2/library/nginx/manifests/latest": 200, "/v2/up.example/app/manifests/v1": 401} {
		if w := token.do(http.MethodGet, target); w.Code != want {
			t.Errorf("%s with the token: %d %s", target, w.Code, w.Body)
		}
	}
	// A client may send the password itself, and name the registry that it is for.
	if w := (account{t, m, hubs}).do(http.MethodGet, "/v2/?ns=docker.io"); w.Code != http.StatusOK {
		t.Errorf("/v2/ for Docker Hub with its password: %d %s", w.Code, w.Body)
	}
	if diff := cmp.Diff([]string{"hub: GET /v2/library/nginx/manifests/latest"}, asked(t, registries)); diff != "" {
		t.Errorf("the registries got (-want +got):\n%s", diff)
	}
}
