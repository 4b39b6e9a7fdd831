package oci_test

import (
	"net/url"
	"slices"
	"testing"

	"github.com/weirhq/weir/oci"
)

func TestPage(t *testing.T) {
	for _, test := range []struct {
		query string
		want  []string
		more  bool
	}{
		{"", []string{"a", "b", "d"}, false},
		{"n=2", []string{"a", "b"}, true},
		{"n=3", []string{"a", "b", "d"}, false},
		{"n=4", []string{"a", "b", "d"}, false},
		{"n=0", []string{}, false},
		{"n=x", []string{"a", "b", "d"}, false},
		{"last=a&n=1", []string{"b"}, true},
		{"last=b", []string{"d"}, false},
		{"last=c", []string{"d"}, false},
		{"last=d", []string{}, false},
		{"last=e&n=1", []string{}, false},
	} {
		query, _ := url.ParseQuery(test.query)
		page, more := oci.Page([]string{"a", "b", "d"}, query)
		if !slices.Equal(test.want, page) || more != test.more {
			t.Errorf("%q: %q, more=%v", test.query, page, more)
		}
	}
}
