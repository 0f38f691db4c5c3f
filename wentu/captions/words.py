"""The words that captions files and file names are full of, in Chinese and English."""

from __future__ import annotations

import unicodedata


def word(text: str) -> str:
    """A name without case, width, spaces and punctuation: ``File_Name`` is filename."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(letter for letter in folded if letter.isalnum())


def words(text: str) -> tuple[str, ...]:
    """Words between spaces."""
    return tuple(text.split())


SPLIT_WORDS = {
    **dict.fromkeys(words("train training restval 训练 训练集 訓練 訓練集"), "train"),
    **dict.fromkeys(words("val valid validation dev 验证 验证集 驗證 驗證集"), "valid"),
    **dict.fromkeys(words("test testing 测试 测试集 測試 測試集"), "test"),
}

# --- fields: in the form of ``word``; the earliest that a table has wins ------------------------

PICTURE_FIELDS = words(
    """
    图片路径 图像路径 文件路径 圖片路徑 檔案路徑 路径 路徑 imagepath imgpath picturepath
    photopath filepath path 图片文件名 图片文件 图像文件 文件名 文件名称 檔名 檔案名稱 图片名
    图片名称 图像名 圖片名稱 imagefilename imagefile imagename picturename filename file 文件
    檔案 图片 圖片 图像 圖像 照片 相片 image images picture pictures photo img pic
    """
)
CAPTION_FIELDS = words(
    """
    中文描述 中文说明 中文标题 captionzh captioncn captionchinese zhcaption cncaption 图片描述
    图像描述 文字描述 描述 描述文字 圖片描述 caption captions imagecaption 图片说明 说明 說明
    文字 文本 内容 內容 text texts 标注 標註 标题 標題 title description descriptions comment
    comments sentence sentences 名称 名稱 标签 標籤 label labels alt alttext
    """
)
SPLIT_FIELDS = words("划分 劃分 数据划分 数据集划分 数据集 資料集 split set subset dataset")
ID_FIELDS = words(
    "imageid imgid pictureid photoid 图片编号 图片id 图像编号 圖片編號 id 编号 編號 序号 序號 uid"
)

# --- names of files: what says nothing of a picture ---------------------------------------------

EMPTY_NAMES = frozenset(
    words(
        # cameras and telephones; chats and screens; names of nothing
        """
        img dsc dscn dscf dscp dcim mvimg pxl gopr dji cimg imgp imag hpim sdc pict 微信图片
        微信圖片 微信截图 微信照片 企业微信截图 wechat wechatimg weixin mmexport qq图片 qq圖片
        qq截图 qq照片 qq浏览器截图 钉钉截图 飞书截图 tim图片 tim截图 截图 截屏 屏幕截图 屏幕快照
        截圖 螢幕截圖 螢幕快照 screenshot screencapture snipaste snapchat image images imgs imges
        img pic pics picture pictures photo photos 图片 图像 照片 相片 圖片 圖像 新图片 unnamed
        untitled noname 未命名 无标题 未命名图片 無標題 未命名圖片 download downloads 下载 下載
        默认 default copy 副本 拷贝 扫描 扫描件 thumb thumbnail
        """
    )
)
EMPTY_BESIDE_NUMBERS = frozenset(
    words(
        """
        年 月 日 号 時 时 点 分 秒 上午 下午 at am pm utc gmt vid mov sam wp wa pano burst hdr
        portrait night edited cover original camera wx fb received screen shot snip scan
        """
    )
)
"""The same, beside numbers only: 月 alone is the moon."""
EMPTY_FOLDERS = frozenset(
    words(
        """
        camera 相机 相機 相册 相簿 图库 新建文件夹 新增資料夾 文件夹 資料夾 new folder 桌面
        desktop documents 文档 其他 其它 misc other others 手机 phone album albums gallery backup
        备份 raw jpg jpeg png tmp temp train valid val test data dataset 未分类 我的图片 我的照片
        mypictures my saved 微信
        """
    )
)
"""The same, of folders only: a picture may well show a train."""

# --- numbers in front of names -------------------------------------------------------------------

UNITS = frozenset(
    "年月日号號点點时時分秒周岁歲后後代期届屆次天米元块塊折度倍层層楼樓路街级級章集季部"
    "个個只隻条條张張朵头頭匹位名人口家双雙对對件本支枝根颗顆粒片杯碗瓶盒包袋串把辆輛架艘座"
)
"""What a number that counts something stands before: 3只, 2024年."""
