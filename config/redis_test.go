package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRedisURL(t *testing.T) {
	tests := []struct {
		url      string
		want     Redis
		redacted string
	}{
		{"redis://127.0.0.1:6379/0", Redis{Addrs: []string{"127.0.0.1:6379"}}, "redis://127.0.0.1:6379/0"},
		{"redis://cache", Redis{Addrs: []string{"cache:6379"}}, "redis://cache:6379/0"},
		{"rediss://:p%2Fw@[::1]:7000/3", Redis{Addrs: []string{"[::1]:7000"}, Password: "p/w", DB: 3, TLS: true}, "rediss://:redacted@[::1]:7000/3"},
		{"redis://u@cache/", Redis{Addrs: []string{"cache:6379"}, Username: "u"}, "redis://u@cache:6379/0"},
		{"redis://u:p@a:1,b:2,c", Redis{Addrs: []string{"a:1", "b:2", "c:6379"}, Username: "u", Password: "p"}, "redis://u:redacted@a:1,b:2,c:6379/0"},
		{"redis://s1,s2:5/2?master_name=my%20group", Redis{Addrs: []string{"s1:26379", "s2:5"}, DB: 2, MasterName: "my group"}, "redis://s1:26379,s2:5/2?master_name=my+group"},
	}
	for _, tt := range tests {
		got := Redis{URL: Secret(tt.url)}
		if err := got.parseURL(); err != nil {
			t.Errorf("%s: %v", tt.url, err)
		}
		if printed := got.redactedURL(); printed != tt.redacted {
			t.Errorf("%s is redacted to %s, want %s", tt.url, printed, tt.redacted)
		}
		got.URL = ""
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s: %s", tt.url, d)
		}
	}
}

func TestRedisURLErrors(t *testing.T) {
	for _, tt := range []struct{ url, want string }{
		{"", "is missing"},
		{"http://u:tiger@h", "must start with redis://"},
		{"tiger", "must start with redis://"},
		{"redis://", "must be a host name"},
		{"redis://a,,b", "must be a host name"},
		{"redis://u:tiger@", "must be a host name"},
		{"redis://h:0", "port 0 is not between"},
		{"redis://u:ti%ger@h", "is not a valid URL"},
		{"redis://u:tiger@h#insecure", "is not a valid URL"},
		{"redis://u:tiger@h:x", "is not a valid URL"},
		{"redis://h/0/1", "the path must be the number"},
		{"redis://h/-1", "the path must be the number"},
		{"redis://h?db=tiger", "the only query option"},
		{"redis://h?master_name=", "the only query option"},
		{"redis://a,b/1", "a cluster has database 0 only"},
	} {
		r := Redis{URL: Secret(tt.url)}
		err := r.parseURL()
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "tiger") {
			t.Errorf("%s: %v, want %s", tt.url, err, tt.want)
		}
	}
}
