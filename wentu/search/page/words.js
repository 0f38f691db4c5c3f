// All texts of the page, in English and Chinese side by side, and which of them is shown.

import { keep, kept } from "./dom.js";

const WORDS = {
  title: ["Picture search", "图片搜索"],
  home: ["wentu: start page", "wentu 首页"],
  skip: ["Skip to the pictures", "跳到图片"],
  search: ["Search pictures", "搜索图片"],
  placeholder: ["Describe a picture, or drop one here", "描述一张图片，或将图片拖到这里"],
  placeholder_touch: ["Describe a picture", "描述或选择一张图片"],
  clear: ["Clear", "清除"],
  speak: ["Speak", "语音输入"],
  choose: ["Search with a picture", "以图搜图"],
  removePicture: ["Remove this picture from the search", "从搜索中移除这张图片"],
  yourPicture: ["Your picture", "您的图片"],
  drop: ["Search with this picture", "用这张图片搜索"],
  switchLanguage: ["中文", "English"],
  switchLanguageShort: ["中", "EN"],
  theme_auto: ["Theme: as the system", "主题：跟随系统"],
  theme_light: ["Theme: light", "主题：浅色"],
  theme_dark: ["Theme: dark", "主题：深色"],
  results: ["Pictures", "图片"],
  active: ["Active filters", "已启用的筛选"],

  filters: ["Filters", "筛选"],
  folder: ["Folder", "文件夹"],
  everywhere: ["All folders", "所有文件夹"],
  name: ["File name contains", "文件名包含"],
  taken: ["Taken", "拍摄日期"],
  added: ["Added", "添加日期"],
  from: ["from", "从"],
  to: ["to", "到"],
  captioned: ["Caption", "描述"],
  either: ["With or without", "不限"],
  captioned_true: ["Has a caption", "有描述"],
  captioned_false: ["No caption", "无描述"],
  min_side: ["Both sides from (pixels)", "两边均不小于（像素）"],
  max_side: ["Both sides to (pixels)", "两边均不大于（像素）"],
  resetFilters: ["Remove all filters", "清除全部筛选"],
  remove: ["Remove: {what}", "移除：{what}"],
  without: ["without {what}", "排除 {what}"],
  weights: ["Weights", "权重"],
  weight_text: ["Text", "文字"],
  weight_picture: ["Picture", "图片"],
  weight_negative: ["Excluded", "排除"],
  chip_folder: ["in {value}", "位于 {value}"],
  chip_name: ["named {value}", "文件名含 {value}"],
  chip_taken_from: ["taken from {value}", "{value} 起拍摄"],
  chip_taken_to: ["taken until {value}", "截至 {value} 拍摄"],
  chip_added_from: ["added from {value}", "{value} 起添加"],
  chip_added_to: ["added until {value}", "截至 {value} 添加"],
  chip_min_side: ["≥ {value} px", "≥ {value} 像素"],
  chip_max_side: ["≤ {value} px", "≤ {value} 像素"],

  welcome: ["What are you looking for?", "想找什么图片？"],
  try: ["Try", "试试"],
  hint: [
    "Add -word to leave something out. Paste or drop a picture to find its like.",
    "加上 -词 可排除内容；粘贴或拖入图片可查找相似图片。",
  ],
  hint_touch: [
    "Add -word to leave something out. Choose or photograph a picture to find its like.",
    "加上 -词 可排除内容；选择或拍摄图片可查找相似图片。",
  ],
  onlyExcluded: ["Add what to look for: {what} only excludes.", "请再写上要找的内容：{what} 只表示排除。"],
  searching: ["Searching…", "正在搜索……"],
  found: ["{count} pictures", "{count} 张图片"],
  found_one: ["1 picture", "1 张图片"],
  foundMore: ["Best of {total}", "{total} 张中的最佳匹配"],
  saidFound: ["{count} pictures found", "找到 {count} 张图片"],
  saidFoundMore: ["The {count} best of {total} pictures are shown", "已显示 {total} 张图片中最匹配的 {count} 张"],
  saidMore: ["{count} pictures are shown", "已显示 {count} 张图片"],
  nothing: ["Nothing fits", "没有匹配的图片"],
  nothingWhy: [
    "No picture here is close enough to what you are looking for.",
    "这里没有足够接近您要找的内容的图片。",
  ],
  nothingFiltered: ["No picture passes these filters.", "没有符合筛选条件的图片。"],
  nearest: ["Show the nearest anyway", "仍然显示最接近的图片"],
  further: ["Show less likely ones, too", "显示可能性较低的图片"],

  gone: ["The service does not answer.", "服务没有响应。"],
  retryIn: ["Trying again in {seconds} s", "{seconds} 秒后重试"],
  retrying: ["Trying again…", "正在重试……"],
  retryNow: ["Try now", "立即重试"],
  back: ["The service answers again", "服务已恢复"],
  unready: ["There is nothing to search yet", "暂时没有可搜索的内容"],
  unreadyWhy: [
    "No release is served. This page goes on by itself as soon as one is there.",
    "尚无已发布的版本。一旦发布，本页会自动继续。",
  ],
  empty: [
    "This collection holds no pictures. Once it does, they appear here by themselves.",
    "此图文集中还没有图片；一旦有了，会自动显示在这里。",
  ],
  emptyIndexing: [
    "The pictures are being indexed; they appear here by themselves.",
    "正在为图片建立索引，完成后会自动显示在这里。",
  ],
  busy: ["A little too fast for this service.", "请求过于频繁。"],
  failed: ["That did not work", "未能完成"],
  tooLarge: ["This file is too large", "文件过大"],
  changed: ["The collection has a new model: searched again", "模型已更新，已重新搜索"],
  noPicture: ["This is no picture", "这不是图片"],
  noPictureWhy: ["Choose, drop or paste a picture file.", "请选择、拖入或粘贴图片文件。"],
  pictureGone: ["The picture of this search is no longer here; choose it again.", "此次搜索的图片已不在，请重新选择。"],

  tokenTitle: ["This collection asks for a token", "访问此图文集需要令牌"],
  tokenWhy: [
    "It is kept in a cookie of this service that the page itself cannot read.",
    "令牌保存在本服务的 Cookie 中，页面本身无法读取。",
  ],
  token: ["Token", "令牌"],
  tokenWrong: ["That is not the token.", "令牌不正确。"],
  enter: ["Open", "进入"],

  close: ["Close", "关闭"],
  before: ["Previous picture", "上一张"],
  after: ["Next picture", "下一张"],
  more: ["More like this", "查找相似"],
  moreLike: ["More like {name}", "查找与 {name} 相似的图片"],
  similar: ["{count} nearly the same", "{count} 张几乎相同"],
  showSimilar: ["Show {count} that are nearly the same as {name}", "显示与 {name} 几乎相同的 {count} 张"],
  download: ["Download", "下载"],
  downloadWhy: ["Without where it was taken", "不含拍摄地点"],
  copyLink: ["Copy link", "复制链接"],
  copyName: ["Copy name", "复制文件名"],
  copied: ["Copied", "已复制"],
  notCopied: ["The browser did not let this be copied", "浏览器不允许复制"],
  captions: ["Captions", "描述"],
  confidence: ["Confidence", "可信度"],
  score: ["Similarity", "相似度"],
  size: ["Size", "尺寸"],
  takenOn: ["Taken", "拍摄于"],
  addedOn: ["Added", "添加于"],
  ownId: ["Number", "编号"],
  alsoAt: ["Also as", "另存于"],
  noOriginal: ["The original cannot be shown here; this is its thumbnail.", "无法显示原图，当前为缩略图。"],

  released: ["Release of {when}", "{when} 发布"],
  aboutRelease: ["What is searched", "正在搜索的内容"],
  pictures: ["Pictures", "图片数"],
  made: ["Released", "发布时间"],
  releaseId: ["Release", "版本"],
  model: ["Model", "模型"],
  recall: ["Mean recall", "平均召回率"],
  verified: ["Checked", "校验"],
  verified_true: ["all files are whole", "所有文件完整"],
  verified_false: ["under way", "进行中"],
  problem: ["Note", "注意"],
  library: ["Folder", "图片目录"],
  library_indexing: ["Indexing: {indexed} of {all}", "正在建立索引：{indexed} / {all}"],
  library_reading: ["The folder is being read", "正在读取图片目录"],
  library_following: ["followed: what changes there is found within a minute", "跟踪中，变化在一分钟内即可搜到"],
  library_away: [
    "The folder of the pictures is out of reach. What was indexed is still found.",
    "无法访问图片目录；已建立索引的图片仍可搜到。",
  ],
  library_failing: [
    "New pictures cannot be indexed; the log of the service says why.",
    "无法为新图片建立索引；原因见服务日志。",
  ],
  library_stopped: [
    "The folder is not followed now; the log of the service says why.",
    "目前未跟踪图片目录；原因见服务日志。",
  ],
  damaged: ["Damaged files", "损坏的文件"],
  calibration: ["Nothing fits", "判断无匹配"],
  calibrated: ["wrongly said {lost}, wrongly not said {accepted}", "误拒 {lost}，误受 {accepted}"],
};

let chosen = "en";

/** "zh" or "en": what is shown. */
export const language = () => chosen;

/** The tag for `lang` and for Accept-Language. */
export const tag = () => (chosen === "zh" ? "zh-CN" : "en");

/** A text in the language that is shown; `{name}` stands for a value. */
export function t(key, values = {}) {
  const pair = WORDS[key];
  if (!pair) throw new Error(`no text ${key}`);
  const text = pair[chosen === "zh" ? 1 : 0];
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

/** Where there is little room, and nothing to drop or to paste: some texts are others there. */
export const small = matchMedia("(max-width: 48rem), (hover: none)");

/** A number, or a moment (ISO 8601), as the reader writes it. A date alone is that day everywhere:
 * JavaScript takes it for midnight in UTC, which is the day before in America. */
export const number = (value) => value.toLocaleString(tag());
export function moment(iso, time = false) {
  const when = new Date(iso);
  if (Number.isNaN(when.getTime())) return String(iso);
  if (/^\d{4}-\d{2}-\d{2}$/.test(iso)) {
    return when.toLocaleDateString(tag(), { dateStyle: "medium", timeZone: "UTC" });
  }
  const form = time ? { dateStyle: "medium", timeStyle: "short" } : { dateStyle: "medium" };
  return when.toLocaleString(tag(), form);
}

/** Choose the language of before, or the one the browser likes most. */
export function chooseLanguage() {
  const liked = (navigator.languages || []).map((each) => each.slice(0, 2).toLowerCase());
  speak(kept("language") || liked.find((each) => each === "zh" || each === "en") || "en");
}

/** Show everything in a language from now on. */
export function speak(name) {
  chosen = name === "zh" ? "zh" : "en";
  document.documentElement.lang = chosen === "zh" ? "zh-CN" : "en";
  write(document);
}

/** The other language, kept for the next visit. */
export function switchLanguage() {
  speak(chosen === "zh" ? "en" : "zh");
  keep("language", chosen);
}

/** Write the texts of all elements that name one. */
export function write(root) {
  for (const each of root.querySelectorAll("[data-t]")) each.textContent = t(each.dataset.t);
  for (const each of root.querySelectorAll("[data-t-label]")) {
    const text = t(each.dataset.tLabel);
    each.setAttribute("aria-label", text);
    if (each.tagName === "BUTTON") each.title = text;
  }
  for (const each of root.querySelectorAll("[data-t-placeholder]")) {
    each.placeholder = t(small.matches ? each.dataset.tPlaceholderTouch : each.dataset.tPlaceholder);
  }
  if (root === document) document.title = `wentu · ${t("title")}`;
}

/** The tag of a caption's or a name's language, for fonts and for voices. */
export const languageOf = (text) => (/[\u3400-\u9fff]/.test(text) ? "zh-CN" : undefined);
