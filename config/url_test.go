package config

import (
	"strings"
	"testing"
)

func TestURL(t *testing.T) {
	var u URL
	if err := u.UnmarshalText([]byte("https://host:5000/team")); err != nil || u.Std().Host != "host:5000" || u.Std().Path != "/team" {
		t.Errorf("%v, %v", u, err)
	}
	if u.String() != "https://host:5000/team" || u != mustURL(t, "https://host:5000/team") {
		t.Errorf("%v", u)
	}
	if u.Std().Host = "other"; u.Std().Host != "host:5000" {
		t.Error("Std must return a copy")
	}
}

// The path of a URL goes behind /v2/, and api_path goes before it. A mixture is refused
// with the lines to write.
func TestURLsWithTheAPI(t *testing.T) {
	for _, test := range []struct{ url, api, want string }{
		{url: "https://host"},
		{url: "https://host/"},
		{url: "https://host/team"},
		{url: "https://host/team/"},
		{url: "https://host/v20/team"},
		{url: "https://host", api: "/artifactory/api/docker/hub"},
		{url: "https://host/library", api: "/repository/hub/"},
		{url: "https://host", api: "/"},
		{url: "https://host/team/v2", api: "/"}, // the names themselves hold v2
		{url: "https://host/v2/", want: `.url: must not contain /v2, which Weir adds before each repository's name; write url = "https://host"`},
		{url: "https://host/v2", want: `write url = "https://host"`},
		{url: "https://host//v2//", want: `write url = "https://host"`},
		{url: "https://host/V2/", want: `write url = "https://host"`},
		{url: "https://host/%76%32/", want: `write url = "https://host"`},
		{url: "https://host:5000/v2/library", want: `write url = "https://host:5000/library"`},
		{url: "https://index.docker.io/v1/", want: `write url = "https://index.docker.io"`},
		{url: "https://host/artifactory/api/docker/hub/v2/", want: `write url = "https://host" and api_path = "/artifactory/api/docker/hub"`},
		{url: "https://host/repository/hub/v2/library", want: `write url = "https://host/library" and api_path = "/repository/hub"`},
		{url: "https://host/v2/", api: "/repository/hub", want: `write url = "https://host"`},
		{url: "https://host", api: "/repository/hub/v2/", want: `.api_path: must not contain /v2 itself, which always follows it; write "/repository/hub/"`},
		{url: "https://host", api: "/v2", want: `.api_path: must not contain /v2 itself, which always follows it; write "/"`},
		{url: "https://host", api: "repository/hub", want: ".api_path: must be a path such as"},
		{url: "https://host", api: "https://host/repository/hub", want: ".api_path: must be a path such as"},
		{url: "https://host", api: "/a/../b", want: ".api_path: must be a path such as"},
		{url: "https://host", api: "/a//b", want: ".api_path: must be a path such as"},
		{url: "https://host", api: "/a?b", want: ".api_path: must be a path such as"},
		{url: "https://host", api: "/%2e%2e", want: ".api_path: must be a path such as"},
	} {
		text := "[[repository.x.upstream]]\nurl = " + quote(test.url) + "\napi_path = " + quote(test.api) + "\n"
		got := problemsOf(t, text)
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s with %q: %q, want %q", test.url, test.api, got, test.want)
		}
		if got != "" {
			continue
		}
		c := mustLoad(t, text)
		if want := strings.TrimRight(test.api, "/"); c.Namespaces[0].Upstreams[0].APIPath.Path() != want {
			t.Errorf("%q is the path %q", test.api, c.Namespaces[0].Upstreams[0].APIPath.Path())
		}
		if d := diff(c, mustLoad(t, effective(t, c))); d != "" {
			t.Errorf("%s with %q comes back different: %s", test.url, test.api, d)
		}
	}
}

func TestNoProxy(t *testing.T) {
	if proxy, err := (Upstream{}).ProxyURL(); proxy != nil || err != nil {
		t.Errorf("%v, %v", proxy, err)
	}
}

func mustURL(t testing.TB, text string) (u URL) {
	t.Helper()
	if err := u.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return u
}
