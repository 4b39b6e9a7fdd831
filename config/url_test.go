package config

import "testing"

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
