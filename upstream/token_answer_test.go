package upstream

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseToken(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) // Unix time 1767323045
	const minutes5 = 300 * time.Second
	tests := map[string]struct {
		body          string
		value         string
		issued, lives time.Duration // after now, and from then on
	}{
		"token":              {`{"token":"a","expires_in":300}`, "a", 0, minutes5},
		"access_token":       {`{"access_token":"b"}`, "b", 0, time.Minute},
		"both":               {`{"token":"a","access_token":"b"}`, "a", 0, time.Minute},
		"issued before":      {`{"token":"a","expires_in":300,"issued_at":"2026-01-02T03:03:05Z"}`, "a", -time.Minute, minutes5},
		"issued in future":   {`{"token":"a","expires_in":300,"issued_at":"2026-01-02T03:14:05Z"}`, "a", 0, minutes5},
		"issued at nonsense": {`{"token":"a","issued_at":"yesterday"}`, "a", 0, time.Minute},
		"negative life":      {`{"token":"a","expires_in":-5}`, "a", 0, time.Minute},
		"endless life":       {`{"token":"a","expires_in":1e300}`, "a", 0, maxTokenLife},

		// A token that is born unusable gets the time of our own clock.
		"born expired":           {`{"token":"a","expires_in":300,"issued_at":"2026-01-02T02:04:05Z"}`, "a", 0, minutes5},
		"born in its last 30 s":  {`{"token":"a","expires_in":300,"issued_at":"2026-01-02T02:59:35Z"}`, "a", 0, minutes5},
		"born in its last tenth": {`{"token":"a","expires_in":60,"issued_at":"2026-01-02T03:03:11Z"}`, "a", 0, time.Minute},
		"just usable":            {`{"token":"a","expires_in":300,"issued_at":"2026-01-02T02:59:36Z"}`, "a", -269 * time.Second, minutes5},
		"issued in 1970":         {`{"token":"a","expires_in":300,"issued_at":"1970-01-01T00:00:00Z"}`, "a", 0, minutes5},
		"no date":                {`{"token":"a","expires_in":300,"issued_at":"0001-01-01T00:00:00Z"}`, "a", 0, minutes5},
		"a life of an instant":   {`{"token":"a","expires_in":1e-9}`, "a", 0, time.Minute},
		"a life of half of it":   {`{"token":"a","expires_in":0.5}`, "a", 0, time.Minute},
		"no life":                {`{"token":"a","expires_in":0}`, "a", 0, time.Minute},

		// Numbers come as strings, with a fraction, and as moments.
		"life as a string":          {`{"token":"a","expires_in":"300"}`, "a", 0, minutes5},
		"life with blanks":          {`{"token":"a","expires_in":" 300\n"}`, "a", 0, minutes5},
		"life with a fraction":      {`{"token":"a","expires_in":300.5}`, "a", 0, minutes5 + time.Second/2},
		"life with an exponent":     {`{"token":"a","expires_in":3e2}`, "a", 0, minutes5},
		"life with a unit":          {`{"token":"a","expires_in":"5m0s"}`, "a", 0, minutes5},
		"life as a Unix time":       {`{"token":"a","expires_in":1767323345}`, "a", 0, minutes5},
		"life as a date":            {`{"token":"a","expires_in":"2026-01-02T03:09:05Z"}`, "a", 0, minutes5},
		"life in words":             {`{"token":"a","expires_in":"for ever"}`, "a", 0, time.Minute},
		"life as infinity":          {`{"token":"a","expires_in":"Inf"}`, "a", 0, time.Minute},
		"life as hexadecimal":       {`{"token":"a","expires_in":"0x12c"}`, "a", 0, time.Minute},
		"issued, Unix time":         {`{"token":"a","expires_in":300,"issued_at":1767322985}`, "a", -time.Minute, minutes5},
		"issued, Unix milliseconds": {`{"token":"a","expires_in":300,"issued_at":1767322985000}`, "a", -time.Minute, minutes5},
		"issued, Unix string":       {`{"token":"a","expires_in":300,"issued_at":"1767322985"}`, "a", -time.Minute, minutes5},
		"issued, fraction":          {`{"token":"a","expires_in":300,"issued_at":1767322984.5}`, "a", -time.Minute - time.Second/2, minutes5},
		"issued, blank for T":       {`{"token":"a","expires_in":300,"issued_at":"2026-01-02 03:03:05Z"}`, "a", -time.Minute, minutes5},
		"issued, no zone":           {`{"token":"a","expires_in":300,"issued_at":"2026-01-02T03:03:05"}`, "a", -time.Minute, minutes5},
		"issued, zone, no colon":    {`{"token":"a","expires_in":300,"issued_at":"2026-01-02T04:03:05.25+0100"}`, "a", -time.Minute + time.Second/4, minutes5},
		"issued, HTTP date":         {`{"token":"a","expires_in":300,"issued_at":"Fri, 02 Jan 2026 03:03:05 GMT"}`, "a", -time.Minute, minutes5},

		// Fields that are not needed never decide.
		"life of another type":     {`{"token":"a","expires_in":{"seconds":300}}`, "a", 0, time.Minute},
		"life null":                {`{"token":"a","expires_in":null}`, "a", 0, time.Minute},
		"life false":               {`{"token":"a","expires_in":false}`, "a", 0, time.Minute},
		"issued of another type":   {`{"token":"a","issued_at":["x"]}`, "a", 0, time.Minute},
		"issued true":              {`{"token":"a","issued_at":true}`, "a", 0, time.Minute},
		"access_token, other type": {`{"token":"a","access_token":{"x":1}}`, "a", 0, time.Minute},
		"token null":               {`{"token":null,"access_token":"b"}`, "b", 0, time.Minute},
		"token a number":           {`{"token":17,"access_token":"b"}`, "b", 0, time.Minute},
		"token empty":              {`{"token":"","access_token":"b"}`, "b", 0, time.Minute},
		"token unusable":           {`{"token":"a b","access_token":"b"}`, "b", 0, time.Minute},
		"token twice, one null":    {`{"token":"a","token":null}`, "a", 0, time.Minute},
		"token twice, one empty":   {`{"token":"","token":"a"}`, "a", 0, time.Minute},
		"token twice, two good":    {`{"token":"a","token":"b"}`, "a", 0, time.Minute},
		"token, and one more":      {`{"token":"a","Token":{"x":[1]}}`, "a", 0, time.Minute},
		"life twice":               {`{"token":"a","expires_in":null,"expires_in":300}`, "a", 0, minutes5},
		"life NaN":                 {`{"token":"a","expires_in":"NaN"}`, "a", 0, time.Minute},
		"life empty":               {`{"token":"a","expires_in":""}`, "a", 0, time.Minute},
		"life minus zero":          {`{"token":"a","expires_in":-0.0}`, "a", 0, time.Minute},
		"life of many digits":      {`{"token":"a","expires_in":` + strings.Repeat("9", 400) + `}`, "a", 0, maxTokenLife},
		"issued years ahead":       {`{"token":"a","expires_in":300,"issued_at":"2036-01-02T03:04:05Z"}`, "a", 0, minutes5},
		"issued, a huge number":    {`{"token":"a","expires_in":300,"issued_at":1e300}`, "a", 0, minutes5},
		"issued, the year 10000":   {`{"token":"a","expires_in":300,"issued_at":"10000-01-02T03:04:05Z"}`, "a", 0, minutes5},
		"a deep object":            {`{"x":` + strings.Repeat("[", 500) + strings.Repeat("]", 500) + `,"token":"a"}`, "a", 0, time.Minute},
		"a token of another kind":  {`{"data":{"token":"x"},"token":"a"}`, "a", 0, time.Minute},
		"another case beside":      {`{"Token":"x","token":"a","ACCESS_TOKEN":"y"}`, "a", 0, time.Minute},
		"life in another case":     {`{"token":"a","Expires_In":300}`, "a", 0, time.Minute},
		"unknown fields":           {`{"token":"a","scope":["x"],"refresh_token":7}`, "a", 0, time.Minute},

		// The bytes around the token are not the token.
		"newline in the value":  {`{"token":"a\n"}`, "a", 0, time.Minute},
		"blanks in the value":   {`{"token":" \ta\r\n"}`, "a", 0, time.Minute},
		"newline after it":      {"{\"token\":\"a\"}\r\n\n", "a", 0, time.Minute},
		"a NUL after it":        {"{\"token\":\"a\"}\x00", "a", 0, time.Minute},
		"a byte order mark":     {"\ufeff{\"token\":\"a\"}", "a", 0, time.Minute},
		"a mark and a new line": {"\ufeff\r\n{\"token\":\"a\"}", "a", 0, time.Minute},
	}
	for name, test := range tests {
		got, err := parseToken([]byte(test.body), now)
		if err != nil || got.Value != test.value || got.Issued.Sub(now) != test.issued || got.Expires.Sub(got.Issued) != test.lives {
			t.Errorf("%s: value %q, issued %v, lives %v, %v", name, got.Value, got.Issued, got.Expires.Sub(got.Issued), err)
		}
		if !got.Usable(now) {
			t.Errorf("%s: it is born unusable", name)
		}
	}
	for body, want := range map[string]string{
		``: "not a token", `<html>`: "not a token", `[]`: "not a token", `"a"`: "not a token", `{"token":"a"`: "not a token",
		`null`: "not a token", `17`: "not a token", `{"token":"a",}`: "not a token", `{"token":"a" "x":1}`: "not a token", `[{"token":"a"}]`: "not a token", `{"data":{"token":"x"}}`: "neither",
		`{"Token":"a"}`: "neither", `{"TOKEN":"a"}`: "neither", `{"Access_Token":"a"}`: "neither", `{"data":{"token":"a"}}`: "neither",
		`{"Code":"Success","Token":"a","Expiration":"2030-01-01T00:00:00Z"}`: "neither",
		`{"token":"` + strings.Repeat("x", 16<<10+1) + `"}`:                  "more than 16384 bytes",
		`{}`: "neither token nor access_token", `{"token":"\n"}`: "neither", `{"token":17}`: "neither",
		`{"token":"a b"}`: "not allowed in a header", `{"access_token":"a\r\nX: y"}`: "not allowed in a header", `{"token":"é"}`: "not allowed in a header",
	} {
		if got, err := parseToken([]byte(body), now); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: value %q, %v, want %q", body, got.Value, err, want)
		}
	}
}

// FuzzParseToken feeds any bytes: a token that is accepted fits into a header, is
// usable now, and ends within the bound.
func FuzzParseToken(f *testing.F) {
	f.Add(`{"token":"a","expires_in":"300","issued_at":1700000000}`, int64(1700000000))
	f.Add(`{"token":{},"access_token":"b\n","expires_in":1e999,"issued_at":"2026-01-02T03:04:05Z"}`, int64(0))
	f.Add("{", int64(0))
	f.Add("\ufeff{\"token\":\"a\",\"expires_in\":-1}", int64(1<<40))
	f.Fuzz(func(t *testing.T, body string, unix int64) {
		now := time.Unix(unix%(1<<40), 0)
		token, err := parseToken([]byte(body), now)
		if err != nil {
			// Each of them has no cause: that would quote the answer.
			if token.Value != "" || !slices.Contains([]error{errNoAnswer, errNoToken, errBadToken, errLongToken}, err) {
				t.Errorf("value %q with %v", token.Value, err)
			}
			return
		}
		if !token.Usable(now) || token.Issued.After(now) || token.Expires.Sub(now) > maxTokenLife || strings.ContainsAny(token.Value, " \r\n\t") {
			t.Errorf("%q at %v: value %q, issued %v, expires %v", body, now, token.Value, token.Issued, token.Expires)
		}
	})
}
