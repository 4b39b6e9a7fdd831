package app

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

// scanned returns what a scanner says about an answer in pieces of a size.
func scanned(s *replyScanner, reply string, size int) error {
	for rest := []byte(reply); len(rest) > 0; {
		n := min(size, len(rest))
		if err := s.scan(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

func TestReplyScanner(t *testing.T) {
	long := strings.Repeat("x", maxRedisString)
	for _, tt := range []struct {
		name, reply string
		refused     bool
	}{
		{"lines", "+OK\r\n:5\r\n-ERR no\r\n_\r\n#t\r\n,1.5\r\n(123\r\n", false},
		{"string", "$5\r\nhello\r\n+OK\r\n", false},
		{"none", "$-1\r\n*-1\r\n", false},
		{"empty string", "$0\r\n\r\n*0\r\n", false},
		{"longest string", fmt.Sprintf("$%d\r\n%s\r\n:1\r\n", len(long), long), false},
		{"string with a header in it", "$13\r\n$99999999999\n\r\n:1\r\n", false},
		{"message", ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n", false},
		{"long line", "+" + long + "\r\n+OK\r\n", false},
		{"string too long", fmt.Sprintf("$%d\r\n", maxRedisString+1), true},
		{"length that no memory has", "$9223372036854775807\r\n", true},
		{"length that is no number", "$99999999999999999999999999\r\n", true},
		{"length behind a plus", "$+99999999999\r\n", true},
		{"length after zeros", "$" + strings.Repeat("0", 40) + "99999999999\r\n", true},
		{"verbatim", "=99999999\r\n", true},
		{"error", "!99999999\r\n", true},
		{"list", "*99999999\r\n", true},
		{"list in a list", "*1\r\n*99999999\r\n", true},
		{"set", "~99999999\r\n", true},
		{"map", "%99999999\r\n", true},
		{"push", ">99999999\r\n", true},
		{"attribute", "|99999999\r\n", true},
		{"after a string", "$1\r\nx\r\n$99999999\r\n", true},
		{"without an end", "+" + strings.Repeat("x", maxRedisReply), true},
	} {
		for _, size := range []int{1, 7, 1 << 20} { // as the network cuts it
			if err := scanned(new(replyScanner), tt.reply, size); (err != nil) != tt.refused {
				t.Errorf("%s, in pieces of %d: %v", tt.name, size, err)
			}
		}
	}
}

// slots returns an answer to CLUSTER SLOTS of ranges of one slot with a replica each.
func slots(ranges int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", ranges)
	for i := range ranges {
		fmt.Fprintf(&b, "*4\r\n:%d\r\n:%d\r\n", i, i)
		for range 2 {
			fmt.Fprintf(&b, "*4\r\n$12\r\n192.0.2.100\n\r\n:6379\r\n$40\r\n%040d\r\n*0\r\n", i)
		}
	}
	return b.String()
}

// The lengths of the lists of an answer have a common bound, and so has their depth: a client
// takes memory for a list within a list beside that of the outer one.
func TestReplyScannerNestedLists(t *testing.T) {
	of := func(kind string, n int) string { return fmt.Sprintf("%s%d\r\n", kind, n) }
	largest := func(kind string) string { return of(kind, maxRedisElements) }
	elements := strings.Repeat(":1\r\n", maxRedisElements)
	most := maxRedisSum / maxRedisElements // lists of the largest length
	for name, tt := range map[string]struct {
		reply   string
		refused bool
	}{
		"HELLO": {"%2\r\n+server\r\n+redis\r\n+modules\r\n*1\r\n%2\r\n+name\r\n+bf\r\n+args\r\n*0\r\n", false},
		// With a command in place of the slots, its subcommands, and the keys of those.
		"COMMAND":                          {strings.Repeat("*1\r\n", maxRedisDepth) + ":1\r\n", false},
		"CLUSTER SLOTS":                    {slots(maxRedisElements), false},
		"lists after each other":           {strings.Repeat(of("*", 2)+":1\r\n"+of("*", 1)+":1\r\n", 10_000), false},
		"empty ones":                       {strings.Repeat("*3\r\n*0\r\n%0\r\n*-1\r\n", 100), false},
		"strings in lists":                 {strings.Repeat("*2\r\n$0\r\n\r\n*2\r\n$-1\r\n=5\r\n*9\r\n\n\r\n", 100), false},
		"values with attributes":           {strings.Repeat("|1\r\n+a\r\n+b\r\n*2\r\n|1\r\n+a\r\n*1\r\n:1\r\n:1\r\n|0\r\n:1\r\n", 100), false},
		"a push between answers":           {strings.Repeat("*1\r\n:1\r\n>2\r\n+a\r\n+b\r\n", 100), false},
		"as many elements as there may be": {strings.Repeat(largest("*")+elements, most), false},
		"one more":                         {strings.Repeat(largest("*")+elements, most) + "*1\r\n", true},
		"one more pair":                    {strings.Repeat(largest("%")+elements+elements, most/2) + "*1\r\n", true},
		"one more of a set":                {strings.Repeat(largest("~")+elements, most) + "~1\r\n", true},
		"one more of a push":               {strings.Repeat(largest(">")+elements, most) + ">1\r\n", true},
		"one more of an attribute":         {strings.Repeat(largest("*")+elements, most) + "|0\r\n", true},
		"maps as keys of maps":             {"%1\r\n+a\r\n" + strings.Repeat(largest("%"), 600), true},
		"lists as the first elements":      {strings.Repeat(largest("*"), 600), true},
		"lists in one list":                {largest("*") + strings.Repeat(largest("*")+elements, most), true},
		"maps in one list":                 {largest("*") + strings.Repeat(largest("%")+elements+elements, most/2), true},
		"attributes in one list":           {largest("*") + strings.Repeat(largest("|")+elements+elements+":1\r\n", most/2), true},
		"lists that are too deep":          {strings.Repeat("*1\r\n", maxRedisDepth+1), true},
		"sets that are too deep":           {strings.Repeat("~1\r\n", maxRedisDepth+1), true},
		"maps that are too deep":           {strings.Repeat("%1\r\n+a\r\n", maxRedisDepth+1), true},
		"pushes that are too deep":         {strings.Repeat(">1\r\n", maxRedisDepth+1), true},
		"attributes of attributes":         {strings.Repeat("|1\r\n+a\r\n", maxRedisDepth+1), true},
		"many attributes of one value":     {strings.Repeat("|0\r\n", maxRedisDepth+1), true},
		"attributes without a length":      {strings.Repeat("|-1\r\n", maxRedisDepth+1), true},
		"different ones":                   {"*2\r\n:1\r\n%1\r\n+a\r\n~1\r\n|1\r\n+a\r\n+b\r\n*1\r\n>1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", true},
	} {
		for _, size := range []int{1, 7, 1 << 20} { // as the network cuts it
			if err := scanned(new(replyScanner), tt.reply, size); (err != nil) != tt.refused {
				t.Errorf("%s, in pieces of %d: %v", name, size, err)
			}
		}
	}
}

// A command begins the bounds anew, but not those of an answer that has not ended: a server
// that sends one for hours would get the bound with each command of another goroutine.
func TestReplyScannerBetweenCommands(t *testing.T) {
	answer := fmt.Sprintf("*%d\r\n", maxRedisElements) + strings.Repeat(":1\r\n", maxRedisElements)
	const answers = 2 * maxRedisSum / maxRedisElements
	for name, tt := range map[string]struct {
		first   string
		refused bool
	}{
		"answers": {"", false}, "within a list": {"*1000\r\n", true},
		"after a list": {"*1\r\n:1\r\n", false}, "within an attribute": {"|500\r\n", true},
	} {
		var s replyScanner
		err := scanned(&s, tt.first, 1<<20)
		for range answers {
			s.command()
			if err == nil {
				err = scanned(&s, answer, 1<<20)
			}
		}
		if (err != nil) != tt.refused {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzReplyScanner checks that the cuts of the network change nothing, and that no
// length beyond the bounds passes where a client reads one.
func FuzzReplyScanner(f *testing.F) {
	f.Add([]byte("$5\r\nhello\r\n*1\r\n:5\r\n"), 3)
	f.Add([]byte("%1\r\n+a\r\n|1\r\n+b\r\n+c\r\n*2\r\n*0\r\n~16384\r\n"), 5)
	f.Add([]byte("$13\r\n$99999999999\n\r\n$-1\r\n>2\r\n+a\r\n+b\r\n"), 1)
	f.Fuzz(func(t *testing.T, reply []byte, size int) {
		var whole, cut replyScanner
		want := whole.scan(reply)
		got := scanned(&cut, string(reply), max(1, size))
		if (want == nil) != (got == nil) {
			t.Errorf("%v as a whole, %v in pieces", want, got)
		}
		if len(whole.header) > maxRedisHeader || whole.skip > maxRedisString+2 {
			t.Errorf("%d bytes of a header, %d to skip", len(whole.header), whole.skip)
		}
		if want == nil && (whole.elements > maxRedisSum || slices.Contains(whole.left[:whole.depth], 0)) {
			t.Errorf("%d elements, and lists with %d left", whole.elements, whole.left[:whole.depth])
		}
	})
}

// A server in the place of Redis cannot end the mirror by the length of an answer.
func TestRedisAnswersTooMuch(t *testing.T) {
	for _, reply := range []string{"$9223372036854775800\r\n", "*9223372036854775800\r\n", "$536870912\r\n", "+" + strings.Repeat("x", 8<<20),
		"%1\r\n+a\r\n" + strings.Repeat("%16384\r\n", 600), strings.Repeat("*16384\r\n", 600)} {
		t.Run(fmt.Sprintf("%.20q", reply), func(t *testing.T) {
			// In the time of the bubble, no exchange ends at its limit of time.
			synctest.Test(t, func(t *testing.T) {
				s := newSharing(t)
				s.dial = func(context.Context, string, string) (net.Conn, error) {
					client, server := net.Pipe()
					go func() {
						defer server.Close()
						if _, err := bufio.NewReader(server).ReadString('\n'); err == nil {
							_, _ = io.WriteString(server, reply) // the client leaves before its end
						}
					}()
					return client, nil
				}
				s.configure(t, `url = "redis://redis.test"`)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				if got := s.token(t, "scope", "mine"); got != "mine" {
					t.Errorf("token %q", got)
				}
				runtime.ReadMemStats(&after)
				if got := (after.TotalAlloc - before.TotalAlloc) >> 20; got > 64 {
					t.Errorf("the answer took %d MiB", got)
				}
				waitFor(t, "a warning", func() bool { return s.log.Count("WARN", "redis: ", "no other client of it publishes") > 0 })
			})
		})
	}
}
