// Package pages tests the web pages of the real binary in a real browser, a
// headless Chromium. browser_test.go has the browser and its tabs;
// mirror_test.go has the mirror whose pages it opens.
package pages
