package s3_test

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/weirhq/weir/storage/s3"
	"github.com/weirhq/weir/storage/s3/s3test"
)

// A bucket that was made gets one rule, which the next survey finds. One that was there keeps
// its own rules.
func TestRuleOfNewBucket(t *testing.T) {
	server := s3test.New(t)
	server.RemoveBucket()
	survey := func() (finding s3.Finding) {
		for _, f := range open(t, server, func(o *s3.Options) { o.CreateBucket = true }).Survey(t.Context()) {
			if f.Step == s3.StepLifecycle {
				finding = f
			}
		}
		return finding
	}
	if f := survey(); f.Err != nil || !strings.Contains(f.Note, "was set") {
		t.Errorf("a new bucket: %+v", f)
	}
	answer, err := http.Get(server.URL + "/" + s3test.Bucket + "?lifecycle=")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	rules, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	for text, times := range map[string]int{
		"<Rule>": 1, "<Status>Enabled</Status>": 1, "<AbortIncompleteMultipartUpload>": 1, "<DaysAfterInitiation>1</DaysAfterInitiation>": 1, "<Expiration>": 0,
	} {
		if got := strings.Count(string(rules), text); got != times {
			t.Errorf("the rules have %q %d times, want %d: %s", text, got, times, rules)
		}
	}
	server.Requests()
	if f := survey(); f.Err != nil || f.Note != "" {
		t.Errorf("the bucket with the rule: %+v", f)
	}
	if sets := slices.ContainsFunc(server.Requests(), func(r string) bool { return strings.HasPrefix(r, "PUT ?lifecycle") }); sets {
		t.Error("the rules of a bucket that was there were replaced")
	}
}
