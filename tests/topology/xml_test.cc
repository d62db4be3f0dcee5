// The XML reader: what it takes, where it says mistakes are, and that bytes do not break it.
#include "topology/xml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tutti {
namespace {

using testing::HasSubstr;

TEST(Xml, ReadsElementsAttributesAndPlaces) {
  const Result<XmlElement> r = parse_xml(
      "<?xml version=\"1.0\"?>\n<!DOCTYPE a SYSTEM \"a.dtd\">\n<!-- a -- b -->\n"
      "<a one='1' two = \"&lt;&#65;&#x42;&amp;&quot;&apos;&gt;\">\n  text <b/><![CDATA[<c>]]>\n"
      "  <b x=\"\"></b >\n</a>\n<!-- after -->");
  ASSERT_TRUE(r.ok()) << r.status().message();
  EXPECT_EQ(r->name, "a");
  EXPECT_EQ(r->place.line, 4u);
  EXPECT_EQ(r->get("two"), "<AB&\"'>");
  EXPECT_EQ(r->get("none"), "");
  ASSERT_EQ(r->children.size(), 2u);
  EXPECT_EQ(r->children[1].place.line, 6u);
  EXPECT_EQ(r->children[1].place.column, 3u);
  ASSERT_NE(r->find("one"), nullptr);
  EXPECT_EQ(r->find("one")->place.line, 4u);
  EXPECT_EQ(r->find("one")->place.column, 9u);
  EXPECT_EQ(r->text, "text ");
  EXPECT_EQ(r->children[1].text, "");
}

TEST(Xml, KeepsTheTextOfEachElement) {
  const Result<XmlElement> r = parse_xml("<a> 1 2<!-- 3 --> 4 <b>five\n5</b><?six?>7&lt;<b/></a>");
  ASSERT_TRUE(r.ok()) << r.status().message();
  EXPECT_EQ(r->text, "1 24 7&lt;");
  ASSERT_EQ(r->children.size(), 2u);
  EXPECT_EQ(r->children[0].text, "five\n5");
}

struct Bad {
  const char* text;
  const char* message;
};

TEST(Xml, NamesThePlaceAndWhatWasExpected) {
  for (const Bad& bad : std::initializer_list<Bad>{
           {"", "line 1, column 1: expected an element, found the end"},
           {"hello", "line 1, column 1: expected an element, found 'hello'"},
           {"<a", "line 1, column 1: expected '>' at the end of <a>, found '<a'"},
           {"<a>\n <b>\n</a>", "line 3, column 1: expected </b> for <b> of line 2, found '</a>'"},
           {"<a>", "line 1, column 4: expected </a> for <a> of line 1, found the end"},
           {"<a x>", "line 1, column 5: expected '=' after the attribute x, found '>'"},
           {"<a x=1>", "column 6: expected a value in quotes for the attribute x, found '1>'"},
           {"<a x=\"1>", "column 7: expected \" at the end of the value of x, found '1>'"},
           {"<a x='1' x='2'/>", "column 10: expected no second attribute x of <a>"},
           {"<a x='1'y='2'/>", "column 9: expected a space, '>' or '/>'"},
           {"<a x='&nbsp;'/>", "column 7: expected &lt; &gt; &amp; &quot; &apos; or a character's"},
           {"<a x='&#xd800;'/>", "column 7: expected"},
           {"<a/><b/>", "line 1, column 5: expected the end after </a>, found '<b/>'"},
           {"<!DOCTYPE a [<!ENTITY b 'c'>]><a/>", "expected a DOCTYPE without declarations"},
           {"<a><!-- b</a>", "column 4: expected '-->' at the end of the comment"},
           {"<a><1/></a>", "column 5: expected the name of an element, found '1/></a>'"}}) {
    const Result<XmlElement> r = parse_xml(bad.text);
    ASSERT_FALSE(r.ok()) << bad.text;
    EXPECT_EQ(r.status().code(), Code::invalid_argument);
    EXPECT_THAT(r.status().message(), HasSubstr(bad.message)) << bad.text;
  }
}

TEST(Xml, SizeDepthAndCountsAreCapped) {
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "<a>";
  EXPECT_THAT(parse_xml(deep).status().message(), HasSubstr("no more than 64 elements within"));
  std::string wide = "<a>";
  for (uint32_t i = 0; i <= k_max_xml_elements; ++i) wide += "<b/>";
  EXPECT_THAT(parse_xml(wide + "</a>").status().message(),
              HasSubstr("no more than 65536 elements"));
  std::string many = "<a";
  for (int i = 0; i < 300; ++i) many += " x" + std::to_string(i) + "=''";
  EXPECT_THAT(parse_xml(many + "/>").status().message(), HasSubstr("no more than 256 attributes"));
  EXPECT_THAT(parse_xml(std::string(k_max_xml_bytes + 1, ' ')).status().message(),
              HasSubstr("at most 16777216 bytes"));
}

TEST(Xml, NulAndStrangeBytesAreNoText) {
  EXPECT_FALSE(parse_xml(std::string_view("<a>\0</a>", 8)).ok());
  EXPECT_FALSE(parse_xml(std::string_view("<a x='\0'/>", 10)).ok());
  const Result<XmlElement> r = parse_xml("\xef\xbb\xbf<a x='\xc3\xa9'/>");
  ASSERT_TRUE(r.ok());
  EXPECT_EQ(r->get("x"), "\xc3\xa9");
}

TEST(Xml, EscapedTextReadsBack) {
  std::string all;
  for (int c = 1; c < 128; ++c) all += static_cast<char>(c);
  const Result<XmlElement> r = parse_xml("<a x=\"" + xml_escape(all) + "\"/>");
  ASSERT_TRUE(r.ok()) << r.status().message();
  EXPECT_EQ(r->get("x"), all);
}

}  // namespace
}  // namespace tutti
